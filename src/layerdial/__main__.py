"""`python -m layerdial`, also under torchrun and accelerate launch."""

from layerdial.cli.entry import main

if __name__ == "__main__":
    main()
