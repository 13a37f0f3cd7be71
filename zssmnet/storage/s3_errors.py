"""Errors of S3: which of them are transient, and the message for the user of each."""

import re

from aiohttp import ClientError as HTTPFault
from botocore import exceptions
from botocore.parsers import ResponseParserError

from zssmnet.storage.retry import GaveUpError, one_line

FAULTS = (
    OSError,
    exceptions.BotoCoreError,
    exceptions.ClientError,
    HTTPFault,
    ResponseParserError,
    GaveUpError,
    RecursionError,  # botocore's, of an answer that leads to where it came from
)
"""All that aiobotocore and what lies below it raise."""
MISSING = ("404", "NoSuchKey", "NoSuchBucket")
"""Codes of the answers to a request for what is not there."""
NOT_THAT_VERSION = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404")
"""Codes of the answers to a conditional write of an object that has changed, is being changed, or is gone."""

_ABOUT_CHECKSUMS = re.compile(
    "checksum|trailer|aws-chunked|content-sha256|content-?(md5|length)|badrequest", re.IGNORECASE
)
_CHECKSUMS = (
    "; where it refuses the checksums of newer clients, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)
_CHECK_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_CHECK_ENDPOINT = "check AWS_ENDPOINT_URL"
_CHECK_PROXY = "HTTPS_PROXY and HTTP_PROXY (NO_PROXY names storage that needs none)"
_LASTING = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "[X509", "[Errno 2]", "[Errno 13]", "[Errno 21]")
"""Of TLS, the last ones of a file of certificates that holds none, or that cannot be read."""
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = (
    *("BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "XAmzContentSHA256Mismatch"),
    *("Throttling", "ThrottlingException"),  # of STS and SSO, for credentials
)
"""Codes of transient errors that come with the status 400 or 409."""
_TRANSIENT_ERRORS = (
    TimeoutError,
    ConnectionError,
    HTTPFault,
    ResponseParserError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    exceptions.ChecksumError,
    exceptions.FlexibleChecksumError,
    exceptions.CredentialRetrievalError,
)
_NO_CREDENTIALS = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound)
_OLD_CREDENTIALS = (
    exceptions.SSOError,
    exceptions.LoginError,
    exceptions.TokenRetrievalError,
    exceptions.CredentialRetrievalError,
)
_MEANINGS = {
    "NoSuchBucket": "the bucket is not there ({code}): make it, or name another",
    "NoSuchKey 404": "it is no longer there ({code})",
    "PreconditionFailed 412": "changed while it was read ({code})",
    "NotImplemented 501": (
        "the storage knows no conditional writes, which locks need ({code}): use a newer version of it"
    ),
    "ExpiredToken ExpiredTokenException InvalidToken RequestExpired TokenRefreshRequired InvalidTokenId": (
        "the credentials have expired ({code}): renew them and run again; what is done is not done again"
    ),
    "507 QuotaExceeded XMinioStorageFull": "the storage is full ({code}): make room there, or have the quota raised",
    "413 EntityTooLarge": (
        "a proxy before the storage takes no request of this size ({code}): let it take 100 MiB, in nginx by "
        "client_max_body_size"
    ),
    "407": f"a proxy asks who you are ({{code}}): check {_CHECK_PROXY}",
    "302 303 307 308 400": f"this is no S3 storage: it answers with a page ({{code}}): {_CHECK_ENDPOINT}",
    "403 AccessDenied AllAccessDisabled AccountProblem": (
        "access is denied ({code}): give these credentials the right to, or use others"
    ),
    "InvalidAccessKeyId SignatureDoesNotMatch": f"the credentials are not accepted ({{code}}): {_CHECK_CREDENTIALS}",
    "AuthorizationHeaderMalformed": "{message} ({code}): set AWS_DEFAULT_REGION to the storage's region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong ({code}): set it",
    "301 PermanentRedirect IllegalLocationConstraintException": (
        "the bucket lies in another region ({code}): set AWS_DEFAULT_REGION"
    ),
}
_MEANING_OF = {code: meaning for codes, meaning in _MEANINGS.items() for code in codes.split()}


class WrongContentError(Exception):
    """What was received is not what was sent: it was damaged, on its way or in the storage."""


def code_of(error: BaseException) -> str:
    """The code of S3's answer, such as "SlowDown", or "503" for an answer without a text; "" if there was none."""
    if not isinstance(error, exceptions.ClientError):
        return ""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return str(error.response.get("Error", {}).get("Code", "") or status)


def is_transient(error: Exception) -> bool:
    """Whether a request that failed in this way may succeed at the next attempt."""
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODES
    if any(reason in str(error) for reason in _LASTING):
        return False
    return isinstance(error, _TRANSIENT_ERRORS)


def needs_a_new_start(error: Exception) -> bool:
    """Whether a whole file has to be sent or fetched anew: its requests do not fit together.

    The file has changed between two requests, or has become so short that a range is not there. An upload in parts is
    gone when it was completed, but the answer was lost.
    """
    codes = ("PreconditionFailed", "412", "InvalidRange", "416", "NoSuchUpload")
    return isinstance(error, WrongContentError) or code_of(error) in codes


def reason_of(error: BaseException) -> str:
    """What is wrong and the way out, in one line."""
    if isinstance(error, GaveUpError) and error.__cause__:
        again = "run it again when the storage answers: what is done is not done again"
        return f"{reason_of(error.__cause__)} (tried {error.attempts} times); {again}"
    if isinstance(error, _NO_CREDENTIALS):
        return f"{one_line(error)}: {_CHECK_CREDENTIALS}"
    if isinstance(error, _OLD_CREDENTIALS):
        return f"{one_line(error)}: renew the credentials and run again"
    if isinstance(error, RecursionError):
        return f"the endpoint leads back to itself: {_CHECK_ENDPOINT}"
    if isinstance(error, exceptions.EndpointProviderError):
        return f"{one_line(error)}: {_CHECK_ENDPOINT}"
    if type(error) is exceptions.HTTPClientError:  # not one of its kinds: a fault on this side
        return f"{one_line(error)}: check AWS_CA_BUNDLE, if it is set: a file of certificates"
    if isinstance(error, exceptions.ConnectionError):
        return f"{one_line(error)}: {_CHECK_ENDPOINT} (http or https?), {_CHECK_PROXY}, and the network"
    if not isinstance(error, exceptions.ClientError):
        return one_line(error)
    code = code_of(error)
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    is_unknown = code in ("NotImplemented", "501", "411")
    hint = _CHECKSUMS if is_unknown or _ABOUT_CHECKSUMS.search(f"{code} {message}") else ""
    meaning = _MEANING_OF.get(code, "{message} ({code})")
    return meaning.replace("{code}", code).replace("{message}", message or "refused") + hint


def is_of_this_machine(error: BaseException) -> bool:
    """Whether the operating system reports it, not the storage: a full disk, a folder that may not be written."""
    return isinstance(error, OSError) and not isinstance(error, _TRANSIENT_ERRORS)
