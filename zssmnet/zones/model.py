"""Published ensembles: a file of all members' weights, its versions, and its record."""

import hashlib
import shutil
from functools import partial
from typing import Any

from pydantic import BaseModel
from typing_extensions import override

from zssmnet.config import NetworkConfig, TrainingConfig, ZonesConfig
from zssmnet.corruption import LAYOUT
from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CheckpointError
from zssmnet.finetuning.loss import WithFrequencies
from zssmnet.handoff.weights import check_finite
from zssmnet.mnet import MNet
from zssmnet.registry.versions import version_folder, version_records
from zssmnet.storage import Address, Storage, folder_and_name, open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.records import Name, Record, publish_recorded, read_record, up_to_date
from zssmnet.training.precision import accelerated, choose_device
from zssmnet.training.tensor_files import load_tensors, save_tensors
from zssmnet.zones.ensemble import Ensemble, Member

MODEL = "zones.model"
METHOD = 2
"""Raised whenever the same cases and settings would give other networks."""
CLASSES = {"finder": 2, "zones": 3}
"""Of a member's two networks, background included."""


class HeldOut(BaseModel, frozen=True):
    """A labelled case, predicted by the member that was trained without its patient.

    Attributes:
        figures: Dice and surface distance by part, see `figures_against`; against the given mask on its own grid.
        findings: what is odd about the mask that was made.
    """

    case_id: str
    member: int
    figures: dict[str, float | None]
    findings: tuple[str, ...] = ()


class ZonesModel(Record):
    """The record of a published ensemble.

    Attributes:
        inputs: images and masks of all labelled cases, then the weights that it began with, if any.
        versions: of the programs that decide the numbers.
        held_out: every labelled case.
        number: 1, 2, 3, ... in the order in which versions were published.
        replaces: run id of the version that was the stable one before.
    """

    run_id: Name
    parameters: ZonesConfig
    network: NetworkConfig
    versions: dict[str, str]
    device: str
    held_out: tuple[HeldOut, ...]
    number: int = 0
    replaces: Name | None = None

    @override
    def is_valid_for(self, name: str) -> bool:
        return [output.key for output in self.outputs] == [name] == [MODEL]

    def mean(self, figure: str) -> float:
        """A figure's mean over the held-out cases that have it."""
        values = [value for one in self.held_out if (value := one.figures.get(figure)) is not None]
        return sum(values) / len(values) if values else float("nan")


def channel_count(config: ZonesConfig) -> int:
    """How many of T2W, ADC and DWI the networks see."""
    return len(CHANNELS) if config.channels != "t2w" else 1


def new_network(kind: str, config: ZonesConfig, network: NetworkConfig) -> MNet:
    """One of a member's two networks, new: ``finder`` or ``zones``."""
    return MNet(channel_count(config), CLASSES[kind], network.channels, network.merge)


def publish_version(weights: Storage, made: ZonesModel, members: list[dict[str, Any]]) -> ZonesModel:
    """Publish an ensemble as a new version, and then under its stable name.

    Args:
        members: of each, by ``finder`` and ``zones``: ``state_dict`` and ``frequencies``.
    """
    stable = find_model(weights)
    number = 1 + max((one.number for one in all_versions(weights)), default=0)
    made = made.model_copy(update={"number": number, "replaces": stable and stable.run_id})
    described = {"parameters": made.parameters.model_dump_json(), "network": made.network.model_dump_json()}
    content = {"format": METHOD, "members": members, "run_id": made.run_id, **described}  # without its record, too
    folder = version_folder(weights, made.run_id)
    made = publish_recorded(folder, MODEL, made, {MODEL: partial(save_tensors, content)}, force=True)
    return promote(weights, made)


def promote(weights: Storage, version: ZonesModel) -> ZonesModel:
    """Put a version under the stable name, unless it is there."""
    stable = find_model(weights)
    if stable and stable.run_id == version.run_id:
        return stable
    model = version_folder(weights, version.run_id).local(MODEL)
    return publish_recorded(weights, MODEL, version, {MODEL: partial(shutil.copyfile, model)}, force=True)


def find_model(weights: Storage) -> ZonesModel | None:
    """The record of the ensemble in a folder, if its file is the recorded one."""
    return up_to_date(weights, read_record(weights, MODEL, ZonesModel))


def all_versions(weights: Storage) -> list[ZonesModel]:
    """The records of all versions, in the order of their publication."""
    found = [record for run_id, record in version_records(weights, MODEL, ZonesModel) if record.run_id == run_id]
    return sorted(found, key=lambda one: (one.number, one.run_id))


def locate_model(address: Address) -> tuple[Storage, str]:
    """Folder and name of an ensemble's file: of the file itself, of its folder, or of a working root.

    Raises:
        CheckpointError: none is there.
    """
    folder, name = folder_and_name(address)
    if name.endswith(".model") and folder.stat(name):
        return folder, name
    for inside in (open_storage(address), open_storage(Layout(str(address)).zones_model)):
        if inside.stat(MODEL):
            return inside, MODEL
    raise CheckpointError(f"{address}: no {MODEL} there; train one with 'zssmnet train-zones'")


def load_ensemble(folder: Storage, name: str, device_name: str) -> Ensemble:
    """An ensemble from its file, ready to predict.

    Raises:
        CheckpointError: the file is none, or is damaged.
    """
    where, file, device = folder.where(name), folder.local(name), choose_device(device_name)
    try:
        content = load_tensors(file)
    except Exception as error:  # on foreign or damaged bytes torch.load raises nearly any type
        raise CheckpointError(f"{where}: is no file of networks, or damaged or cut short; copy it again") from error
    try:
        config = ZonesConfig.model_validate_json(content["parameters"])
        network = NetworkConfig.model_validate_json(content["network"])
        recipe = TrainingConfig(device=config.device, compile="off")
        members = list[Member]()
        for member in content["members"]:
            made = dict[str, WithFrequencies]()
            for kind in CLASSES:
                model = new_network(kind, config, network)
                check_finite(where, member[kind]["state_dict"])
                model.load_state_dict(member[kind]["state_dict"])
                if len(member[kind]["frequencies"]) != CLASSES[kind]:
                    raise ValueError(f"frequencies of {len(member[kind]['frequencies'])} classes")
                model.to(memory_format=LAYOUT).to(device)  # type: ignore[call-overload]
                made[kind] = WithFrequencies(accelerated(model, device, recipe), member[kind]["frequencies"]).to(device)
            members.append(Member(**made))
        if not members:
            raise ValueError("no members")
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{where}: is no ensemble of 'zssmnet train-zones', or one of another version: {reason}"
        ) from error
    return Ensemble(members, config)


def identify(inputs: list[str], config: ZonesConfig) -> str:
    """12 hex digits of everything that decides the networks.

    Args:
        inputs: SHA-256 of all files.
    """
    settings = config.model_dump_json(exclude={"device"})
    return hashlib.sha256("\n".join([str(METHOD), settings, *inputs]).encode()).hexdigest()[:12]
