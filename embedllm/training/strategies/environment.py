"""Tells Lightning what the launcher says about this process."""

from __future__ import annotations

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from embedllm.ranks import current_rank


class LauncherEnvironment(ClusterEnvironment):
    """The ranks as `embedllm.distributed` sees them, under torchrun and srun alike."""

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts no processes of its own."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 is."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """The port there."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Never by itself."""
        return False

    def world_size(self) -> int:
        """Processes in all."""
        return current_rank().world_size

    def set_world_size(self, size: int) -> None:
        """Leaves it to the launcher."""

    def global_rank(self) -> int:
        """Number of this process."""
        return current_rank().rank

    def set_global_rank(self, rank: int) -> None:
        """Leaves it to the launcher."""

    def local_rank(self) -> int:
        """Number of this process on its machine."""
        return current_rank().local_rank

    def node_rank(self) -> int:
        """Number of the machine."""
        return current_rank().node_rank
