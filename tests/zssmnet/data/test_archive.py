import logging
import os
import unicodedata
from pathlib import Path

import pytest

from tests.zssmnet.examinations import NNUNET, PICAI
from zssmnet.data.archive import ArchiveFormat, Case, Inventory, duplicated, patient_of, shortened, take_inventory
from zssmnet.errors import ArchiveError, CaseError, InputError
from zssmnet.storage import LocalStorage

UNUSUAL_IDS = [
    "11373_1001396",
    "a",
    "prostate-007",
    "Łódź_前列腺",
    "with space and_more",
    "with.dots.nii",
    "_0001",
    "a_0000_0000",
    "..",
    "x" * 243,
    "é" * 121,
    "[a](b)*?$HOME;&",
]


class Folders:
    """An archive of empty files: the inventory looks at names alone."""

    def __init__(self, root: Path) -> None:
        self.images, self.masks = root / "images", root / "masks"

    def add(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def add_nnunet(self, case_id: str, folder: str = "imagesTr") -> None:
        self.add(*(self.images / folder / f"{case_id}{suffix}" for suffix in NNUNET), self.mask(case_id))

    def add_picai(self, case_id: str) -> None:
        patient = self.images / case_id.split("_")[0]
        self.add(*(patient / f"{case_id}{suffix}" for suffix in PICAI), self.mask(case_id))
        self.add(patient / f"{case_id}_cor.mha", patient / f"{case_id}_sag.mha")

    def mask(self, case_id: str) -> Path:
        return self.masks / f"{case_id}.nii.gz"

    def inventory(self, archive_format: ArchiveFormat | None = None) -> Inventory:
        return take_inventory(LocalStorage(self.images), LocalStorage(self.masks), archive_format)

    def only_fault(self) -> CaseError:
        (fault,) = self.inventory().faults
        assert fault.reason
        assert str(fault).isprintable()
        return fault


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


class TestFormats:
    def test_nnunet_raw(self, folders: Folders):
        folders.add_nnunet("10_2")
        folders.add_nnunet("10_1")
        first, second = folders.inventory().cases
        assert first == Case(
            "10_1",
            "nnunet",
            ("imagesTr/10_1_0000.nii.gz", "imagesTr/10_1_0001.nii.gz", "imagesTr/10_1_0002.nii.gz"),
            "10_1.nii.gz",
        )
        assert second.id == "10_2"

    def test_picai(self, folders: Folders):
        folders.add_picai("10_1")
        assert folders.inventory().cases == (
            Case("10_1", "picai", ("10/10_1_t2w.mha", "10/10_1_adc.mha", "10/10_1_hbv.mha"), "10_1.nii.gz"),
        )

    def test_picai_in_several_parts(self, folders: Folders):
        """PI-CAI comes as five archives, which need not be unpacked into one folder."""
        folders.add_picai("10_1")
        folders.images.rename(folders.images.with_name("fold0"))
        folders.images.mkdir()
        folders.images.with_name("fold0").rename(folders.images / "fold0")
        assert [case.images[0] for case in folders.inventory().cases] == ["fold0/10/10_1_t2w.mha"]

    @pytest.mark.parametrize("below", ["", "imagesTr"])
    def test_images_folder_or_the_one_above(self, folders: Folders, below: str):
        folders.add_nnunet("a")
        folders.images /= below
        assert [case.id for case in folders.inventory().cases] == ["a"]

    def test_images_without_a_folder_of_their_own(self, folders: Folders):
        folders.add_nnunet("a", folder="")
        assert folders.inventory().cases[0].images[0] == "a_0000.nii.gz"

    def test_what_lies_beside_images_tr_is_no_matter(self, folders: Folders):
        """Test images, labels, and what an earlier run put there."""
        folders.add_nnunet("a")
        folders.add_nnunet("a", folder="SSL/data/subset0")
        folders.add_nnunet("b", folder="imagesTs")
        folders.add(folders.images / "labelsTr/a.nii.gz", folders.images / "dataset.json")
        found = folders.inventory()
        assert [case.id for case in found.cases] == ["a"]
        assert not found.faults

    def test_test_images_alone_are_no_archive(self, folders: Folders):
        folders.add_nnunet("a", folder="imagesTs")
        with pytest.raises(ArchiveError, match="no case"):
            folders.inventory()

    def test_both_in_one_folder_need_a_choice(self, folders: Folders):
        folders.add_nnunet("a")
        folders.add_picai("10_1")
        with pytest.raises(ArchiveError, match=r"holds both.*--archive-format"):
            folders.inventory()
        assert [case.id for case in folders.inventory("nnunet").cases] == ["a"]
        assert [case.id for case in folders.inventory("picai").cases] == ["10_1"]

    def test_a_wrong_choice_is_said(self, folders: Folders):
        folders.add_nnunet("a")
        with pytest.raises(ArchiveError, match=r"no case of the format 'picai'.*_t2w\.mha"):
            folders.inventory("picai")

    @pytest.mark.parametrize("case_id", UNUSUAL_IDS)
    def test_any_id(self, folders: Folders, case_id: str):
        folders.add_nnunet(case_id)
        found = folders.inventory()
        assert not found.faults
        assert [(case.id, case.mask) for case in found.cases] == [(case_id, f"{case_id}.nii.gz")]

    def test_linked_folders_belong_to_the_archive(self, folders: Folders, tmp_path: Path):
        folders.add_picai("10_1")
        (folders.images / "10").rename(tmp_path / "elsewhere")
        (folders.images / "10").symlink_to(tmp_path / "elsewhere")
        assert len(folders.inventory().cases) == 1


class TestNoArchive:
    @pytest.mark.parametrize("exists", [False, True])
    def test_empty_or_missing_folder(self, folders: Folders, exists: bool):
        if exists:
            folders.images.mkdir()
        with pytest.raises(ArchiveError, match="images: no such folder, or an empty one"):
            folders.inventory()

    def test_folder_of_other_files(self, folders: Folders):
        folders.add(folders.images / "scan.dcm", folders.images / "a_0000.nii", folders.images / "t2w.mha")
        with pytest.raises(ArchiveError, match=r"images: no case found; expected imagesTr/<case>_0000\.nii\.gz"):
            folders.inventory()

    @pytest.mark.parametrize("exists", [False, True])
    def test_empty_or_missing_folder_of_masks(self, folders: Folders, exists: bool):
        folders.add_nnunet("a")
        folders.mask("a").unlink()
        folders.masks.rmdir()
        if exists:
            folders.add(folders.masks / "README.md")
        with pytest.raises(ArchiveError, match=r"masks: no zonal mask <case>\.nii\.gz"):
            folders.inventory()

    @pytest.mark.parametrize(
        ("names", "seen"),
        [
            (["scan1.dcm", "scan2.dcm", "x/scan.IMA"], r"3 files \(2 \*\.dcm, 1 \*\.IMA\), such as .*DICOM"),
            (["a_0000.nii", "b_0000.nii"], r"2 files \(2 \*\.nii\), such as a_0000\.nii, b_0000\.nii; compress"),
            (["1/1_1_t2.mha", "LICENSE"], r"2 files \(1 \*\.mha, 1 \*\), such as 1/1_1_t2\.mha, LICENSE"),
            (["._a_0000.nii.gz", "__MACOSX/b_0000.nii.gz"], r"2 files \(2 \*\.nii\.gz\).*all of them are hidden"),
            (["records/a.json", "subset0/a_0000.nii.gz"], r"files that an earlier run prepared are ignored"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("form", [None, "nnunet"])
    def test_says_what_is_there_instead(
        self, folders: Folders, names: list[str], seen: str, form: ArchiveFormat | None
    ):
        folders.add(*(folders.images / name for name in names))
        with pytest.raises(ArchiveError, match=seen) as caught:
            folders.inventory(form)
        assert str(caught.value).isprintable()
        assert form or "such as imagesTr/11373_1001396_0000.nii.gz" in str(caught.value)

    def test_says_what_is_there_instead_of_masks(self, folders: Folders):
        folders.add_nnunet("a")
        folders.mask("a").rename(folders.masks / "a.nii")
        with pytest.raises(ArchiveError, match=r"no zonal mask .* there are 1 files \(1 \*\.nii\), such as a\.nii"):
            folders.inventory()


class TestPassedOver:
    """What is no file of a case, though it is named like one."""

    def plain(self, folders: Folders, form: str) -> Inventory:
        add = folders.add_nnunet if form == "nnunet" else folders.add_picai
        add("10_1")
        add("11_1")
        return folders.inventory()

    def files(self, folders: Folders) -> list[Path]:
        return [path for folder in (folders.images, folders.masks) for path in folder.rglob("*") if path.is_file()]

    @pytest.mark.parametrize("form", ["nnunet", "picai"])
    @pytest.mark.parametrize("where", ["._{}", "__MACOSX/{}", "__MACOSX/a/._{}", ".{}~", ".trash/{}", ".a/b/{}"])
    def test_files_of_macos_and_hidden_ones(self, folders: Folders, form: str, where: str):
        plain = self.plain(folders, form)
        for path in self.files(folders):
            folders.add(path.parent / where.format(path.name))
        assert folders.inventory() == plain

    @pytest.mark.parametrize("form", ["nnunet", "picai"])
    def test_a_hidden_file_is_no_broken_case(self, folders: Folders, form: str):
        plain = self.plain(folders, form)
        for path in self.files(folders):
            if path.parent != folders.masks:
                folders.add(path.with_name(f".{path.name}"))
        assert folders.inventory() == plain

    @pytest.mark.parametrize("form", ["nnunet", "picai"])
    @pytest.mark.parametrize("below", ["", "work", "SSL/data", "imagesTr/a/b", "10"])
    @pytest.mark.parametrize("at", ["images", "masks"])
    def test_prepared_cases_of_an_earlier_run(self, folders: Folders, form: str, below: str, at: str):
        plain = self.plain(folders, form)
        root = folders.images if at == "images" else folders.masks
        for number, case_id in enumerate(("10_1", "11_1", "12_1")):
            folders.add(root / below / f"records/{case_id}.json", root / below / f"subset{number}/{case_id}.nii.gz")
            folders.add(*(root / below / f"subset{number}/{case_id}{suffix}" for suffix in NNUNET))
        assert folders.inventory() == plain

    @pytest.mark.parametrize("at", ["images", "masks"])
    def test_prepared_cases_of_the_published_program_which_writes_no_records(self, folders: Folders, at: str):
        folders.add_nnunet("a", folder="")
        root = folders.images if at == "images" else folders.masks
        folders.add(*(root / f"work/SSL/data/subset2/a{suffix}" for suffix in (*NNUNET, ".nii.gz")))
        assert [case.id for case in folders.inventory().cases] == ["a"]
        assert not folders.inventory().faults

    def test_a_folder_called_subset_is_nothing_special(self, folders: Folders):
        folders.add_nnunet("a", folder="subset0")
        folders.add_nnunet("b", folder="centre/subset1")
        assert [case.id for case in folders.inventory().cases] == ["a", "b"]


class TestFaults:
    @pytest.mark.parametrize(("channel", "name"), list(enumerate(["T2W", "ADC", "DWI"])))
    def test_missing_channel(self, folders: Folders, channel: int, name: str):
        folders.add_nnunet("a")
        folders.add_nnunet("b")
        (folders.images / f"imagesTr/a{NNUNET[channel]}").unlink()
        fault = folders.only_fault()
        assert (fault.case_id, fault.file) == ("a", f"a{NNUNET[channel]}")
        assert fault.reason == f"missing: the case has no {name} image"
        assert [case.id for case in folders.inventory().cases] == ["b"]

    def test_missing_channel_of_picai(self, folders: Folders):
        folders.add_picai("10_1")
        (folders.images / "10/10_1_t2w.mha").unlink()
        fault = folders.only_fault()
        assert (fault.case_id, fault.file) == ("10_1", "10_1_t2w.mha")

    def test_missing_mask(self, folders: Folders):
        folders.add_nnunet("a")
        folders.add_nnunet("b")
        folders.mask("a").unlink()
        fault = folders.only_fault()
        assert (fault.case_id, fault.file) == ("a", str(folders.mask("a")))
        assert fault.reason == "missing: the case has no zonal mask"

    def test_only_nifti_masks_count(self, folders: Folders):
        folders.add_nnunet("a")
        folders.add_nnunet("b")
        folders.mask("a").rename(folders.masks / "a.nii")
        folders.add(folders.masks / "a")
        assert folders.only_fault().case_id == "a"

    def test_every_faulty_case_is_named(self, folders: Folders):
        for case_id in ("a", "b", "c"):
            folders.add_nnunet(case_id)
            folders.mask(case_id).unlink()
        folders.add_nnunet("d")
        found = folders.inventory()
        assert [fault.case_id for fault in found.faults] == ["a", "b", "c"]
        assert [case.id for case in found.cases] == ["d"]

    def test_image_that_is_there_twice(self, folders: Folders):
        folders.add_nnunet("a")
        folders.add(folders.images / "imagesTr/again/a_0001.nii.gz")
        fault = folders.only_fault()
        assert fault.file == "imagesTr/again/a_0001.nii.gz"
        assert "twice, in imagesTr/a_0001.nii.gz" in fault.reason

    def test_mask_that_is_there_twice(self, folders: Folders):
        folders.add_nnunet("a")
        folders.add(folders.masks / "again/a.nii.gz")
        fault = folders.only_fault()
        assert fault.file == "again/a.nii.gz"
        assert "twice, in a.nii.gz" in fault.reason

    def test_masks_without_images_only_warn(self, folders: Folders, caplog: pytest.LogCaptureFixture):
        folders.add_nnunet("a")
        folders.add(folders.masks / "README.md", *(folders.mask(f"m{number}") for number in range(7)))
        with caplog.at_level(logging.WARNING):
            found = folders.inventory()
        assert len(found.cases) == 1
        assert not found.faults
        assert "7 masks without images, not used: m0, m1, m2, m3, m4 and 2 more" in caplog.text
        assert len(caplog.records) == 1

    @pytest.mark.parametrize(
        ("case_id", "reason"),
        [
            ("", "no id"),
            ("two\nlines", "control characters"),
            (os.fsdecode(b"latin-1 \xe9"), "not UTF-8"),
            ("line\N{LINE SEPARATOR}separator", "control characters"),
        ],
    )
    def test_ids_that_cannot_name_a_file(self, folders: Folders, case_id: str, reason: str):
        folders.add_nnunet("good")
        folders.add_nnunet(case_id)
        fault = folders.only_fault()
        assert reason in fault.reason
        assert [case.id for case in folders.inventory().cases] == ["good"]

    def test_id_too_long_for_the_names_of_prepared_cases(self, folders: Folders):
        folders.add_picai("10_1")
        folders.add(*(folders.images / f"{'9' * 246}{suffix}" for suffix in PICAI), folders.mask("9" * 246))
        assert "more than 255 bytes" in folders.only_fault().reason

    def test_folder_that_cannot_be_named(self, folders: Folders):
        folders.add_nnunet("a", folder="two\nlines")
        assert folders.only_fault().case_id == "a"

    @pytest.mark.parametrize("ending", ["_0000", "_0001", "_0002"])
    def test_ids_whose_prepared_files_would_have_the_same_name(self, folders: Folders, ending: str):
        folders.add_nnunet("a")
        folders.add_nnunet(f"a{ending}")
        fault = folders.only_fault()
        assert fault.case_id == f"a{ending}"
        assert "image of case a" in fault.reason
        assert [case.id for case in folders.inventory().cases] == ["a"]


class TestPatients:
    @pytest.mark.parametrize(
        ("case_id", "patient"),
        [("11373_1001396", "11373"), ("11373", "11373"), ("a_b", "a_b"), ("1_2_3", "1_2_3"), ("", ""), ("1_2\n", "1")],
    )
    def test_picai(self, case_id: str, patient: str):
        assert patient_of(case_id) == patient

    def test_pattern(self):
        assert patient_of("site3-p17-v2", r"(?P<patient>site\d+-p\d+)") == "site3-p17"
        assert patient_of("other", r"(?P<patient>site\d+-p\d+)") == "other"
        assert patient_of("abc", r"(x(?P<patient>\d))?abc") == "abc"

    @pytest.mark.parametrize("pattern", ["(", "(?P<patient>", r"(\d+)_", "", "(?P<Patient>.)"])
    def test_unusable_pattern(self, pattern: str):
        with pytest.raises(InputError, match=r"regular expression|no group") as caught:
            patient_of("nothing like it", pattern)
        assert "\n" not in str(caught.value)


def test_shortened():
    assert shortened(["a", "b"]) == "a, b"
    assert shortened((str(number) for number in range(7)), most=3) == "0, 1, 2 and 4 more"
    assert shortened(["two\nlines"]) == r"two\nlines"


def test_duplicated():
    assert duplicated(["b", "a", "b", "c", "a"]) == ["a", "b"]
    assert duplicated(["a", "b"]) == []


class TestUnicodeForms:
    """macOS stores names decomposed; typed elsewhere they are composed, and look the same."""

    @pytest.mark.parametrize(
        "name", ["Jos\u00e9_1", "M\u00fcller_2", "\u00c5ngstr\u00f6m", "\uac00\ub098_1", "Nguy\u1ec5n_3", "\u1e69_1"]
    )
    @pytest.mark.parametrize("images_form", ["NFC", "NFD"])
    @pytest.mark.parametrize("masks_form", ["NFC", "NFD"])
    def test_images_and_masks_are_paired(self, folders: Folders, name: str, images_form, masks_form):
        image, mask = (unicodedata.normalize(form, name) for form in (images_form, masks_form))
        folders.add(*(folders.images / "imagesTr" / f"{image}{suffix}" for suffix in NNUNET), folders.mask(mask))
        (case,) = folders.inventory().cases
        assert case.id == (image if image == mask else unicodedata.normalize("NFC", name))
        assert case.images[0] == f"imagesTr/{image}_0000.nii.gz"
        assert case.mask == f"{mask}.nii.gz"
        assert not folders.inventory().faults

    def test_channels_in_different_forms_are_one_case(self, folders: Folders):
        forms = [unicodedata.normalize(form, "Jos\u00e9_1") for form in ("NFC", "NFD", "NFC")]
        for form, suffix in zip(forms, NNUNET, strict=True):
            folders.add(folders.images / f"{form}{suffix}")
        folders.add(folders.mask(forms[0]))
        assert [case.id for case in folders.inventory().cases] == [forms[0]]

    def test_the_same_name_in_both_forms_is_there_twice(self, folders: Folders):
        for form in ("NFC", "NFD"):
            folders.add_nnunet(unicodedata.normalize(form, "Jos\u00e9_1"))
        assert "the id is there twice" in folders.only_fault().reason


class TestBids:
    def add(self, folders: Folders, *files: str, masks: tuple[str, ...] = ()) -> None:
        folders.add(*(folders.images / file for file in files), *map(folders.mask, masks))

    @pytest.mark.parametrize(
        ("files", "case_id"),
        [
            (("sub-1/anat/sub-1_T2w", "sub-1/dwi/sub-1_ADC", "sub-1/dwi/sub-1_dwi"), "sub-1"),
            (
                (
                    "sub-1/ses-2/anat/sub-1_ses-2_T2w",
                    "sub-1/ses-2/dwi/sub-1_ses-2_ADC",
                    "sub-1/ses-2/dwi/sub-1_ses-2_dwi",
                ),
                "sub-1_ses-2",
            ),
            (("sub-a/anat/sub-a_acq-ax_run-1_T2w", "sub-a/dwi/sub-a_ADC", "sub-a/dwi/sub-a_acq-b1400_dwi"), "sub-a"),
            (("set/sub-1/anat/sub-1_T2w", "set/sub-1/anat/sub-1_ADC", "set/sub-1/anat/sub-1_dwi"), "sub-1"),
            (("sub-1/dwi/sub-1_desc-x_T2w", "sub-1/dwi/sub-1_desc-x_ADC", "sub-1/dwi/sub-1_desc-x_dwi"), "sub-1"),
        ],
    )
    def test_it_is_recognised_and_the_table_is_logged(
        self, folders: Folders, files: tuple[str, ...], case_id: str, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.INFO)
        named = tuple(f"{file}.nii.gz" for file in files)
        others = [
            "participants.tsv",
            f"derivatives/x/{named[0]}",
            f"sourcedata/{named[0]}",
            "sub-1/func/sub-1_bold.nii.gz",
        ]
        self.add(folders, *named, *others, masks=(case_id,))
        found = folders.inventory()
        assert found == Inventory((Case(case_id, "bids", (named[0], named[1], named[2]), f"{case_id}.nii.gz"),), ())
        assert f"{case_id}: T2W {named[0]}, ADC {named[1]}, DWI {named[2]}" in caplog.text

    def test_two_of_a_kind_are_named_not_chosen_by_chance(self, folders: Folders):
        files = [f"sub-1/dwi/sub-1_{name}.nii.gz" for name in ("ADC", "acq-b50_dwi", "acq-b1400_dwi")]
        self.add(folders, "sub-1/anat/sub-1_T2w.nii.gz", *files, masks=("sub-1",))
        fault = folders.only_fault()
        assert {fault.file, *fault.reason.split()} >= {"sub-1/dwi/sub-1_acq-b50_dwi.nii.gz"}

    def test_a_missing_channel_and_a_missing_mask_are_named(self, folders: Folders):
        self.add(folders, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1/dwi/sub-1_ADC.nii.gz", masks=("sub-1",))
        assert "has no DWI image" in folders.only_fault().reason
        self.add(folders, "sub-1/dwi/sub-1_dwi.nii.gz")
        folders.mask("sub-1").rename(folders.mask("sub-2"))
        assert "no zonal mask" in folders.only_fault().reason

    def test_a_file_of_another_subject_is_no_image(self, folders: Folders):
        self.add(folders, "sub-1/anat/sub-2_T2w.nii.gz", masks=("sub-1",))
        with pytest.raises(ArchiveError, match="no case found"):
            folders.inventory()

    def test_sessions_are_one_patient(self):
        assert {patient_of(case_id) for case_id in ("sub-7_ses-1", "sub-7_ses-2", "sub-7")} == {"sub-7"}
        assert patient_of("sub-7_ses-1", r"(?P<patient>x)") == "sub-7_ses-1"

    def test_beside_another_archive_one_is_chosen(self, folders: Folders):
        files = [f"sub-1/dwi/sub-1_{name}.nii.gz" for name in ("T2w", "ADC", "dwi")]
        self.add(folders, *files, masks=("sub-1",))
        folders.add_nnunet("10_1")
        with pytest.raises(ArchiveError, match="choose one with --archive-format nnunet or bids"):
            folders.inventory()
        assert [case.id for case in folders.inventory("bids").cases] == ["sub-1"]
