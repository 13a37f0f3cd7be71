"""Which errors of S3 are transient, and the one line for the user of each."""

import ssl

import aiohttp
import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError

from zssmnet.storage.retry import GaveUpError
from zssmnet.storage.s3_errors import (
    FAULTS,
    WrongContentError,
    code_of,
    is_of_this_machine,
    is_transient,
    needs_a_new_start,
    reason_of,
)


def answer(status: int, code: str = "", message: str = "") -> exceptions.ClientError:
    error = {"Code": code or str(status), "Message": message}
    return exceptions.ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


TRANSIENT = [
    *(answer(status) for status in (408, 429, 500, 502, 503, 504)),
    *(answer(status, code) for status, code in [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")]),
    *(answer(400, code) for code in ("BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch")),
    *(answer(400, code) for code in ("Throttling", "ThrottlingException")),  # of STS and SSO, for credentials
    answer(409, "OperationAborted"),
    TimeoutError(),
    ConnectionResetError(),
    aiohttp.ClientPayloadError(),
    ResponseParserError("no XML"),
    exceptions.EndpointConnectionError(endpoint_url="http://host"),
    exceptions.HTTPClientError(error="cut off"),
    exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    exceptions.ChecksumError(checksum_type="md5", expected_checksum="a", actual_checksum="b"),
    exceptions.FlexibleChecksumError(error_msg="other bytes"),
    exceptions.CredentialRetrievalError(provider="sso", error_msg="no answer"),
]
LASTING = [
    *(answer(status) for status in (301, 400, 403, 404, 409, 412, 416, 501)),
    answer(403, "AccessDenied"),
    answer(400, "ExpiredToken"),
    exceptions.NoCredentialsError(),
    exceptions.HTTPClientError(error=ssl.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")),
    exceptions.HTTPClientError(error=ssl.SSLError("[X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found")),
    exceptions.HTTPClientError(error=FileNotFoundError(2, "No such file or directory")),
    exceptions.HTTPClientError(error=IsADirectoryError(21, "Is a directory")),
    OSError(28, "No space left on device"),
    ValueError(),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_transient(error: Exception) -> None:
    assert is_transient(error)
    assert isinstance(error, FAULTS)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("error", "needs"),
    [
        (WrongContentError("other bytes"), True),
        *((answer(int(code)), True) for code in ("412", "416")),
        *((answer(400, code), True) for code in ("PreconditionFailed", "InvalidRange", "NoSuchUpload")),
        (answer(404), False),
        (OSError(), False),
    ],
    ids=repr,
)
def test_a_file_whose_requests_do_not_fit_together_needs_a_new_start(error: Exception, needs: bool) -> None:
    assert needs_a_new_start(error) == needs


def test_codes() -> None:
    assert code_of(answer(503, "SlowDown")) == "SlowDown"
    assert code_of(answer(503)) == "503"
    assert code_of(exceptions.ClientError({}, "PutObject")) == ""
    assert code_of(OSError(5, "")) == ""


AGAIN = "; run it again when the storage answers: what is done is not done again"


def gave_up(error: Exception) -> GaveUpError:
    failed = GaveUpError(4)
    failed.__cause__ = error
    return failed


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (answer(404, "NoSuchBucket"), "the bucket is not there (NoSuchBucket): make it, or name another"),
        (answer(404), "it is no longer there (404)"),
        (answer(412), "changed while it was read (412)"),
        (answer(501), "the storage knows no conditional writes, which locks need (501): use a newer version of it"),
        (answer(400, "ExpiredToken"), "the credentials have expired (ExpiredToken): renew them and run again; "),
        (answer(403), "access is denied (403): give these credentials the right to, or use others"),
        (answer(403, "InvalidAccessKeyId"), "the credentials are not accepted (InvalidAccessKeyId): check AWS_ACCESS"),
        (answer(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong (RequestTimeTooSkewed): set it"),
        (answer(301, "PermanentRedirect"), "the bucket lies in another region (PermanentRedirect): set AWS_DEFAULT_R"),
        (answer(409, "Odd", "two\n lines {code}"), "two lines {code} (Odd)"),
        (answer(409, "Odd"), "refused (Odd)"),
        (exceptions.NoCredentialsError(), "Unable to locate credentials: check AWS_ACCESS_KEY_ID"),
        (exceptions.ProfileNotFound(profile="x"), "The config profile (x) could not be found: check AWS_ACCESS_KEY_ID"),
        (
            exceptions.TokenRetrievalError(provider="sso", error_msg="old"),
            "Error when retrieving token from sso: old: re",
        ),
        (
            exceptions.EndpointConnectionError(endpoint_url="http://h"),
            'Could not connect to the endpoint URL: "http://h"',
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (gave_up(answer(503, "SlowDown", "slower")), f"slower (SlowDown) (tried 4 times){AGAIN}"),
    ],
    ids=repr,
)
def test_the_reason_in_one_line(error: Exception, line: str) -> None:
    assert reason_of(error).startswith(line)
    assert "\n" not in reason_of(error)


@pytest.mark.parametrize(
    ("codes", "way_out"),
    [
        ("NoSuchKey", "it is no longer there"),
        ("PreconditionFailed", "changed while it was read"),
        ("NotImplemented", "use a newer version of it"),
        ("ExpiredTokenException InvalidToken RequestExpired TokenRefreshRequired", "renew them and run again"),
        ("AccessDenied AllAccessDisabled AccountProblem", "give these credentials the right to, or use others"),
        ("SignatureDoesNotMatch InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        ("IllegalLocationConstraintException 301", "set AWS_DEFAULT_REGION"),
    ],
)
def test_codes_of_one_meaning(codes: str, way_out: str) -> None:
    for code in codes.split():
        assert way_out in reason_of(answer(400, code))


@pytest.mark.parametrize(
    "error",
    [
        exceptions.SSOError(),
        exceptions.LoginError(),
        exceptions.TokenRetrievalError(provider="sso", error_msg="old"),
        exceptions.CredentialRetrievalError(provider="sso", error_msg="old"),
    ],
    ids=repr,
)
def test_credentials_that_are_old_are_renewed(error: Exception) -> None:
    assert reason_of(error).endswith(": renew the credentials and run again")


def test_credentials_that_are_not_whole_are_checked() -> None:
    error = exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY")
    assert reason_of(error).endswith(": check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")


def test_the_way_out_of_an_unreachable_endpoint() -> None:
    line = reason_of(exceptions.EndpointConnectionError(endpoint_url="http://h"))
    assert line.endswith(
        ": check AWS_ENDPOINT_URL (http or https?), HTTPS_PROXY and HTTP_PROXY (NO_PROXY names storage that needs "
        "none), and the network"
    )


def test_a_proxy_that_cannot_be_reached_is_named() -> None:
    place = aiohttp.client_reqrep.ConnectionKey("proxy.site", 3128, False, True, None, None, None)
    reason = aiohttp.ClientConnectorError(place, OSError(-2, "Name or service not known"))
    line = reason_of(exceptions.EndpointConnectionError(endpoint_url="http://h", error=reason))
    assert line.startswith(
        'Could not connect to the endpoint URL: "http://h" (proxy.site:3128: Name or service not known): check AWS_'
    )


def test_what_the_operating_system_reports_is_of_this_machine() -> None:
    assert is_of_this_machine(OSError(28, "No space left on device"))
    assert is_of_this_machine(PermissionError())
    for error in (ConnectionResetError(), TimeoutError(), answer(500), WrongContentError(), GaveUpError(1)):
        assert not is_of_this_machine(error)
