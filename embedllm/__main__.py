"""`python -m embedllm <command>`."""

from embedllm.cli import main

if __name__ == "__main__":
    main()
