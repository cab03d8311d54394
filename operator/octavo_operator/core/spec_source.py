"""The part of a spec that says where the model's files come from, and where fetched ones are kept."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from octavo_operator.core.schema import SUBDOMAIN, Memory, SpecModel, meets, rule, rules, written

_PORT: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
_ENDPOINT: Final = rf"^https?://[A-Za-z0-9.-]+(:{_PORT})?(/[-A-Za-z0-9._~/]*)?$"
_WRITE_ENDPOINT: Final = (
    "write http:// or https://, a host and, if it is another one, a port, such as http://minio.storage.svc:9000"
)
_REPOSITORY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
_WRITE_REPOSITORY: Final = (
    "write organisation/name, such as HuggingFaceTB/SmolLM2-135M-Instruct: no address, and a revision into revision"
)
_S3: Final = r"^s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9](/[^/\s]+)+/?$"
_WRITE_S3: Final = (
    "write s3://, a bucket and a folder or .gguf object in it, such as s3://models/smol; a host into endpoint"
)
_BEHIND_A_SERVICE: Final = (
    "Behind a Service of the cluster its port must be that of the pods too, for a NetworkPolicy sees theirs."
)


_FROM_THE_ROOT: Final = "must be relative to the root: leave the leading / away"
_STAYS_INSIDE: Final = "must not contain '..': the path stays inside"
Inside = Annotated[
    str,
    meets(
        (lambda path: not path.startswith("/"), _FROM_THE_ROOT),
        (lambda path: ".." not in path.split("/"), _STAYS_INSIDE),
    ),
]


def _path_inside(what: str) -> str:
    """The field that says where in a volume or an image the model is."""
    field: str = Field(
        default=".",
        min_length=1,
        max_length=1024,
        description=f"Folder (safetensors, config.json, tokenizer) or .gguf file inside the {what}, relative to its "
        "root. Default: the root itself. Example: SmolLM2-135M-Instruct.",
        json_schema_extra=rules(
            rule("!self.startsWith('/')", _FROM_THE_ROOT),
            rule("!self.split('/').exists(part, part == '..')", _STAYS_INSIDE),
        ),
    )
    return field


class PvcSource(SpecModel):
    """A folder or GGUF file on a PersistentVolumeClaim in the ModelServer's namespace, mounted read-only."""

    claim_name: str = Field(
        max_length=253,
        pattern=SUBDOMAIN,
        description="Name of the PersistentVolumeClaim. It must be mountable by all replicas at once.",
    )
    path: Inside = _path_inside("volume")


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

    repo: Annotated[str, *written(_REPOSITORY, _WRITE_REPOSITORY)] = Field(
        max_length=193,
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
    endpoint: Annotated[str, *written(_ENDPOINT, _WRITE_ENDPOINT)] | None = Field(
        default=None,
        max_length=512,
        description=f"Address of a mirror. {_BEHIND_A_SERVICE} Default: the hub itself.",
    )
    token_secret_ref: SecretKey | None = Field(
        default=None, description="Access token for private and gated repositories. Default: none."
    )


class S3Source(SpecModel):
    """Objects of S3-compatible storage."""

    uri: Annotated[str, *written(_S3, _WRITE_S3)] = Field(
        max_length=1024,
        description="Bucket and folder, or one .gguf object. Example: s3://models/smol.",
    )
    endpoint: Annotated[str, *written(_ENDPOINT, _WRITE_ENDPOINT)] | None = Field(
        default=None,
        max_length=512,
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


class OciSource(SpecModel):
    """Files in an image, which the node pulls and mounts read-only as it does with the runtime's own (KEP-4639)."""

    image: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^\S+$",
        description="Image with the files, readable by user 65532. A tag can move: name a digest where that matters. "
        "Needs Kubernetes with image volumes. Example: registry.example/models/smol:1.",
    )
    path: Inside = _path_inside("image")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the node pulls it. Default: Always for the tag latest, else IfNotPresent."
    )
    pull_secret_ref: SecretName | None = Field(
        default=None, description="Secret of type kubernetes.io/dockerconfigjson for its registry. Default: none."
    )


_ONE_SOURCE: Final = "set exactly one source: hub, oci, pvc or s3"


class ModelSource(SpecModel):
    """Where the model's files are; exactly one member is set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                """(has(self.hub) ? 1 : 0) + (has(self.oci) ? 1 : 0) + (has(self.pvc) ? 1 : 0)
                    + (has(self.s3) ? 1 : 0) == 1""",
                _ONE_SOURCE,
            )
        )
    )

    checks: ClassVar = ((lambda self: [self.hub, self.oci, self.pvc, self.s3].count(None) == 3, _ONE_SOURCE),)

    hub: HubSource | None = Field(
        default=None, description="Fetch the model from the Hugging Face hub when a replica starts."
    )
    oci: OciSource | None = Field(default=None, description="Read the model from an image that the node mounts.")
    pvc: PvcSource | None = Field(default=None, description="Read the model from a PersistentVolumeClaim.")
    s3: S3Source | None = Field(
        default=None, description="Fetch the model from S3-compatible storage when a replica starts."
    )

    @property
    def is_fetched(self) -> bool:
        """Whether a replica fetches the files itself, instead of finding them in a volume."""
        return self.pvc is None and self.oci is None


class CacheClaim(SpecModel):
    """A PersistentVolumeClaim that keeps fetched models."""

    claim_name: str = Field(
        max_length=253,
        pattern=SUBDOMAIN,
        description="Name of the PersistentVolumeClaim. With ReadWriteMany all replicas share it: one fetches and the "
        "others wait for it. With ReadWriteOnce all replicas must be on one node; elsewhere one never starts.",
    )


class OwnClaim(SpecModel):
    """A PersistentVolumeClaim under the ModelServer's name, which the operator makes and which goes with it."""

    size: Memory = Field(
        description="Bytes that it asks for, as a quantity. It may grow later where its storage class allows that. "
        "Example: 200Gi.",
    )
    storage_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=SUBDOMAIN,
        description="Storage class. It cannot be changed later. Default: the cluster's own.",
    )
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        default="ReadWriteMany",
        description="ReadWriteMany: all replicas share it, one fetches and the others wait for it. ReadWriteOnce: all "
        "replicas must be on one node. It cannot be changed later. Default: ReadWriteMany.",
    )


_ONE_CACHE: Final = "set exactly one of claim, pvc and sizeLimit"


class Cache(SpecModel):
    """Where fetched files are kept; exactly one member is set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("(has(self.claim) ? 1 : 0) + (has(self.pvc) ? 1 : 0) + (has(self.sizeLimit) ? 1 : 0) == 1", _ONE_CACHE)
        )
    )

    checks: ClassVar = ((lambda self: [self.claim, self.pvc, self.size_limit].count(None) == 2, _ONE_CACHE),)

    claim: OwnClaim | None = Field(
        default=None,
        description="Keep them on a volume that is claimed for this ModelServer and goes with it: for several "
        "replicas, and beyond their end.",
    )
    pvc: CacheClaim | None = Field(
        default=None, description="Keep them on a volume of your own, which may serve several ModelServers."
    )
    size_limit: Memory | None = Field(
        default=None,
        description="Keep them on the node's disk while the pod is there. A pod that takes more is evicted. "
        "Example: 20Gi.",
    )

    def claim_name(self, server: str) -> str | None:
        """The claim that keeps them; None where the node's disk does. Its own one has the ModelServer's name."""
        if self.pvc is not None:
            return self.pvc.claim_name
        return server if self.claim is not None else None
