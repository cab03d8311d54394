"""A pod as the operator renders it fetches its model: the argument and the variables are all that the runtime needs."""

from pathlib import Path

import pytest

from octavo_operator.core.sources import model_argument, source_env
from octavo_operator.core.spec import parse_spec

SECRETS = {"HF_TOKEN": "hf_right", "AWS_ACCESS_KEY_ID": "right", "AWS_SECRET_ACCESS_KEY": "secret"}
FETCHED = {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.fixture
def fetch_rendered(start_fetch):
    """Fetches what a source names; returns the process's last words and what the kubelet read from Secrets."""

    def run(source):
        model = parse_spec({"model": {"source": source}}).model
        variables = source_env(model)
        plain = {variable["name"]: variable["value"] for variable in variables if "value" in variable}
        secret = [variable for variable in variables if "valueFrom" in variable]
        filled = {variable["name"]: SECRETS[variable["name"]] for variable in secret if variable["name"] in SECRETS}
        return start_fetch(model_argument(model), None, **plain, **filled).end()

    return run


def names(said):
    return {file.name for file in Path(said["path"]).iterdir()}


def test_a_gated_repository_of_a_mirror(hub, fetch_rendered):
    hub.token = "hf_right"
    reference = {"name": "hub", "key": "token"}
    said = fetch_rendered({"hub": {"repo": "team/model", "endpoint": hub.url, "tokenSecretRef": reference}})
    assert names(said) >= FETCHED


def test_a_bucket_with_credentials(bucket, fetch_rendered):
    bucket.token = "Credential=right/"
    source = {"uri": "s3://bucket/models/small", "endpoint": bucket.url, "credentialsSecretRef": {"name": "minio"}}
    assert names(fetch_rendered({"s3": source})) >= FETCHED
    assert all("us-east-1" in authorization for authorization in bucket.authorizations)


def test_a_public_bucket_is_read_without_a_signature(bucket, fetch_rendered):
    said = fetch_rendered({"s3": {"uri": "s3://bucket/models/small", "endpoint": bucket.url}})
    assert names(said) >= FETCHED
    assert set(bucket.authorizations) == {None}
