"""The part of a spec that says where the model's files come from, and where fetched ones are kept."""

from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from octavo_operator.core.schema import SUBDOMAIN, Memory, SpecModel, meets, rule, rules

_PORT: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
_ENDPOINT: Final = rf"^https?://[A-Za-z0-9.-]+(:{_PORT})?(/[-A-Za-z0-9._~/]*)?$"
_BEHIND_A_SERVICE: Final = (
    "Behind a Service of the cluster its port must be that of the pods too, for a NetworkPolicy sees theirs."
)


class PvcSource(SpecModel):
    """A folder or GGUF file on a PersistentVolumeClaim in the ModelServer's namespace, mounted read-only."""

    claim_name: str = Field(
        max_length=253,
        pattern=SUBDOMAIN,
        description="Name of the PersistentVolumeClaim. It must be mountable by all replicas at once.",
    )
    path: Annotated[
        str,
        meets(
            (
                lambda path: not path.startswith("/"),
                "must be relative to the root of the volume: leave the leading / away",
            ),
            (lambda path: ".." not in path.split("/"), "must not contain '..': the path stays in the volume"),
        ),
    ] = Field(
        default=".",
        min_length=1,
        max_length=1024,
        description="Folder (safetensors, config.json, tokenizer) or .gguf file inside the volume, relative to its "
        "root. Default: the root itself. Example: SmolLM2-135M-Instruct.",
        json_schema_extra=rules(
            rule("!self.startsWith('/')", "must be relative to the root of the volume: leave the leading / away"),
            rule("!self.split('/').exists(part, part == '..')", "must not contain '..': the path stays in the volume"),
        ),
    )


class SecretKey(SpecModel):
    """One key of a Secret in the ModelServer's namespace."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Name of the Secret.")
    key: str = Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key inside it.")


class SecretName(SpecModel):
    """A Secret in the ModelServer's namespace."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Name of the Secret.")


_NO_DOTS: Final = "repo and revision must not contain '..'"
_NO_FILE: Final = "revision is a branch, a tag or a commit: write a .gguf file into file"


class HubSource(SpecModel):
    """A repository of the Hugging Face hub, or of a mirror that speaks its protocol."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!self.repo.contains('..') && !self.revision.contains('..')", _NO_DOTS),
            rule("!self.revision.endsWith('.gguf')", _NO_FILE, fieldPath=".revision"),
        )
    )

    checks: ClassVar = (
        (lambda self: ".." not in self.repo and ".." not in self.revision, _NO_DOTS),
        (lambda self: not self.revision.endswith(".gguf"), _NO_FILE),
    )

    repo: str = Field(
        max_length=193,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Organisation and name. Example: HuggingFaceTB/SmolLM2-135M-Instruct.",
    )
    revision: str = Field(
        default="main",
        max_length=255,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9._-])?$",
        description="Branch, tag or commit. A branch can move, and replicas that start later then serve other weights: "
        "name a commit where that matters. Default: main.",
    )
    file: str | None = Field(
        default=None,
        max_length=255,
        pattern=r"^[^/\s]+\.gguf$",
        description="One .gguf file of a repository that has several. Example: model-q8_0.gguf.",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        pattern=_ENDPOINT,
        description=f"Address of a mirror. {_BEHIND_A_SERVICE} Default: the hub itself.",
    )
    token_secret_ref: SecretKey | None = Field(
        default=None, description="Access token for private and gated repositories. Default: none."
    )


class S3Source(SpecModel):
    """Objects of S3-compatible storage."""

    uri: str = Field(
        max_length=1024,
        pattern=r"^s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9](/[^/\s]+)+/?$",
        description="Bucket and folder, or one .gguf object. Example: s3://models/smol.",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        pattern=_ENDPOINT,
        description=f"Address of the storage. {_BEHIND_A_SERVICE} Example: http://minio.storage.svc:9000. "
        "Default: AWS.",
    )
    region: str | None = Field(
        default=None, max_length=63, pattern=r"^[a-z0-9-]+$", description="Region. Default: us-east-1."
    )
    credentials_secret_ref: SecretName | None = Field(
        default=None,
        description="Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where there is one, "
        "AWS_SESSION_TOKEN. Default: requests are not signed, as for a public bucket.",
    )


_ONE_SOURCE: Final = "set exactly one source: hub, pvc or s3"


class ModelSource(SpecModel):
    """Where the model's files are; exactly one member is set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("(has(self.hub) ? 1 : 0) + (has(self.pvc) ? 1 : 0) + (has(self.s3) ? 1 : 0) == 1", _ONE_SOURCE)
        )
    )

    checks: ClassVar = ((lambda self: [self.hub, self.pvc, self.s3].count(None) == 2, _ONE_SOURCE),)

    hub: HubSource | None = Field(
        default=None, description="Fetch the model from the Hugging Face hub when a replica starts."
    )
    pvc: PvcSource | None = Field(default=None, description="Read the model from a PersistentVolumeClaim.")
    s3: S3Source | None = Field(
        default=None, description="Fetch the model from S3-compatible storage when a replica starts."
    )


class CacheClaim(SpecModel):
    """A PersistentVolumeClaim that keeps fetched models."""

    claim_name: str = Field(
        max_length=253,
        pattern=SUBDOMAIN,
        description="Name of the PersistentVolumeClaim. With ReadWriteMany all replicas share it: one fetches and the "
        "others wait for it. With ReadWriteOnce all replicas must be on one node; elsewhere one never starts.",
    )


_ONE_CACHE: Final = "set exactly one of pvc and sizeLimit"


class Cache(SpecModel):
    """Where fetched files are kept; exactly one member is set."""

    model_config = ConfigDict(json_schema_extra=rules(rule("has(self.pvc) != has(self.sizeLimit)", _ONE_CACHE)))

    checks: ClassVar = ((lambda self: (self.pvc is None) != (self.size_limit is None), _ONE_CACHE),)

    pvc: CacheClaim | None = Field(
        default=None, description="Keep them on a volume, beyond the end of a replica and for several of them."
    )
    size_limit: Memory | None = Field(
        default=None,
        description="Keep them on the node's disk while the pod is there. A pod that takes more is evicted. "
        "Example: 20Gi.",
    )
