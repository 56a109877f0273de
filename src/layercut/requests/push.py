"""``push``: which checkpoint goes where on the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from layercut.requests.base import Flag, Folder, Request
from layercut.requests.io import Io

if TYPE_CHECKING:
    from layercut.models.push import Upload


class PushRequest(Request):
    """Push the checkpoint of FOLDER to the Hugging Face hub, with its evidence.

    The model card gets the hub's metadata: base model, licence, tags, and the score of each task on report items. The
    plan and result.json go along; reports stay here, because they hold questions of data sets. One commit. Log in
    first: hf auth login.

    Example: layercut push runs/copy me/smollm2-small --dry-run
    """

    VERB = "push"

    folder: Annotated[Folder, Flag("RUN", argument=True)] = Field(
        description="Folder of a prune or a heal, or a checkpoint that layercut wrote."
    )
    repo: Annotated[str, Flag("REPO", argument=True)] = Field(description="user/name; created if it is not there.")
    private: bool = Field(False, description="Create the repository as a private one.")

    @property
    def upload(self) -> Upload:
        """Files and card to upload. Raises InputError: nothing that can be."""
        from layercut.models.push import prepare

        return prepare(self.folder, self.repo)

    def run(self, io: Io) -> str:
        """Upload; gives the address of the repository."""
        from layercut.models.push import push

        return push(self.upload, private=self.private)
