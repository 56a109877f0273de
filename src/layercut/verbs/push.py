"""``push``: which checkpoint goes where on the hub."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from layercut.verbs import fields
from layercut.verbs.base import Flag, Shown, Verb
from layercut.verbs.io import Io

if TYPE_CHECKING:
    from layercut.models.push import Upload


class PushVerb(Verb):
    """Push the checkpoint of FOLDER to the Hugging Face hub, with its evidence.

    The model card gets the hub's metadata: base model, licence, tags, and the score of each task on report items. The
    plan and result.json go along; reports stay here, because they hold questions of data sets. One commit. Log in
    first: hf auth login.

    Example: layercut push runs/copy me/smollm2-small --dry-run
    """

    VERB = "push"
    POSITIONAL = ("folder", "repo")
    RETURNS = "Address of the repository."

    folder: Annotated[fields.Folder, Flag("RUN", argument=True)] = Field(
        description="Folder of a prune or a heal, or a checkpoint that layercut wrote."
    )
    repo: Annotated[str, Flag("REPO", argument=True)] = Field(description="user/name; created if it is not there.")
    private: bool = Field(False, description="Create the repository as a private one.")

    @cached_property
    def upload(self) -> Upload:
        """Files and card to upload. Raises InputError: nothing that can be."""
        from layercut.models.push import prepare_upload

        return prepare_upload(self.folder, self.repo)

    def run(self, io: Io) -> str:
        """Upload; gives the address of the repository."""
        from layercut.models.push import upload_checkpoint

        return upload_checkpoint(self.upload, private=self.private)

    def rehearse(self, io: Io) -> Shown:
        return self._shown("dry run: nothing was uploaded")

    def show(self, done: str, io: Io) -> Shown:
        return self._shown(f"uploaded: {done}")

    def _shown(self, last: str) -> Shown:
        front = self.upload.card.partition("---\n")[2].partition("---\n")[0].rstrip()
        return Shown(self.upload.to_dict(), lines=[*self.upload.lines(), "card metadata:", front, last])
