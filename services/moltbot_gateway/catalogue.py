"""The models that a tenant may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moltbot.router.v1 import router_pb2

from moltbot_gateway.openai_response import model_object
from moltbot_mesh.errors import NotFound
from moltbot_models.manifest import taken

if TYPE_CHECKING:
    from moltbot.router.v1 import router_pb2_grpc


class Catalogue:
    """Reads the router's list.

    Args:
        router: Has the models.
        start_s: When this gateway started; the `created` of every model, for want of a better one.
    """

    def __init__(self, router: router_pb2_grpc.RouterServiceAsyncStub, start_s: int) -> None:
        self._router = router
        self._start_s = start_s

    async def statuses(self, tenant: str) -> list[router_pb2.ModelStatus]:
        """All models of a tenant, in order of id."""
        found: list[router_pb2.ModelStatus] = []
        token = ""
        while True:
            page = await self._router.ListModels(
                router_pb2.ListModelsRequest(tenant=tenant, page_size=1000, page_token=token)
            )
            found.extend(page.models)
            token = page.next_page_token
            if not token:
                return found

    async def models(self, tenant: str) -> list[dict[str, Any]]:
        """The models as OpenAI's objects."""
        return [self._object(status) for status in await self.statuses(tenant)]

    async def model(self, tenant: str, model_id: str) -> dict[str, Any]:
        """One model as OpenAI's object.

        Raises:
            NotFound: There is none, or it is not open to the tenant.
        """
        for status in await self.statuses(tenant):
            if status.manifest.id == model_id:
                return self._object(status)
        raise NotFound(f"no model {model_id!r}; GET /v1/models lists them", reason="MODEL_NOT_FOUND")

    def ready(self, status: router_pb2.ModelStatus) -> bool:
        """Whether a model can be used now."""
        return status.breaker != router_pb2.BREAKER_STATE_OPEN

    def _object(self, status: router_pb2.ModelStatus) -> dict[str, Any]:
        manifest = status.manifest
        return model_object(manifest.id, self._start_s, manifest.context_length, taken(manifest.input_modalities))
