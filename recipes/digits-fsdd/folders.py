"""The Free Spoken Digit Dataset as the audio folders that `layerdial prepare folder` reads.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset
    python recipes/digits-fsdd/folders.py free-spoken-digit-dataset SOURCE/fsdd

Its files are called recordings/{digit}_{speaker}_{number}.wav; the numbers 0 to 4 are its official test set.
"""

import csv
import shutil
import sys
from pathlib import Path

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEST_NUMBERS = range(5)


def main(clone: Path, out: Path) -> None:
    recordings = sorted((clone / "recordings").glob("*.wav"))
    if not recordings:
        sys.exit(f"{clone / 'recordings'} has no .wav files; give the folder that git clone made")
    rows: dict[str, list[list[str]]] = {"train": [], "test": []}
    for recording in recordings:
        digit, speaker, number = recording.stem.split("_")
        split = "test" if int(number) in TEST_NUMBERS else "train"
        (out / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(recording, out / split)
        rows[split].append([recording.name, DIGITS[int(digit)], speaker])
    for split, found in rows.items():
        with (out / split / "metadata.csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([["file_name", "transcription", "speaker_id"], *found])
        print(f"{out / split}: {len(found)} recordings")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
