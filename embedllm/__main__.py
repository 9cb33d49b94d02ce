"""`python -m embedllm <command>`."""

from embedllm.cli import run_process

if __name__ == "__main__":
    run_process()
