"""Puts into the wheel what `layerdial recipes` copies; it lies outside of the package, where everybody sees it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("recipes", "experiments/suites", "experiments/plugins")
ENDINGS = (".md", ".yaml", ".py")


class WithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # such an installation finds the clone's
        for folder in FOLDERS:
            files = sorted(file for file in Path(folder).rglob("*") if file.suffix in ENDINGS)
            if not files:
                raise FileNotFoundError(f"{folder} has no files; build from a clone or from an sdist")
            for file in files:
                place = Path(self.build_lib, "layerdial", "shipped", file)
                place.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(file), str(place))


setup(cmdclass={"build_py": WithRecipes})
