"""Certificates and tokens, made locally with the `openssl` that every machine with CA certificates has.

One authority signs the API server's certificate, etcd's, and the clients' of both. Everybody else (administrator,
controller manager, scheduler, kubelet, kube-proxy) shows a random token from one token file.
"""

import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

_DAYS = "3650"

USERS = {
    # name of the kubeconfig: (user, groups)
    "admin": ("octavo-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": ("system:node:octavo", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
}


@dataclass(frozen=True)
class Pki:
    """The files of one cluster's trust."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def service_account_key(self) -> Path:
        return self.folder / "service-account.key"

    @property
    def service_account_public(self) -> Path:
        return self.folder / "service-account.pub"

    @property
    def token_file(self) -> Path:
        return self.folder / "tokens.csv"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def token(self, name: str) -> str:
        user = USERS[name][0]
        for line in self.token_file.read_text().splitlines():
            token, line_user, *_ = line.split(",")
            if line_user == user:
                return token
        raise ClusterError(f"no token for {user} in {self.token_file}: run down, then up")


def make_pki(folder: Path, addresses: Sequence[str]) -> Pki:
    """Makes what is missing; keeps the authority, the service account key and the tokens that data in etcd depends on.

    `addresses` are the IPs the API server is reached at. The server's certificate is made anew at each start, because
    they may have changed.
    """
    if shutil.which("openssl") is None:
        raise ClusterError("openssl is missing: install the package openssl")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    pki = Pki(folder)
    if not pki.ca.exists():
        _make_authority(pki)
    if not pki.service_account_public.exists():
        _make_service_account_key(pki)
    if not pki.token_file.exists():
        _write(pki.token_file, tokens_csv())
    _sign(pki, "server", "/CN=kube-apiserver", _server_extensions(addresses))
    _sign(pki, "client", "/O=system:masters/CN=kube-apiserver-client", "extendedKeyUsage=clientAuth\n")
    return pki


def tokens_csv() -> str:
    """The API server's static token file: token,user,uid,"groups"."""
    lines = []
    for name, (user, groups) in USERS.items():
        line = f"{secrets.token_hex(24)},{user},{name}"
        lines.append(f'{line},"{groups}"' if groups else line)
    return "\n".join(lines) + "\n"


def _server_extensions(addresses: Sequence[str]) -> str:
    names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    entries = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    return f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={','.join(entries)}\n"


def _make_authority(pki: Pki) -> None:
    _generate_key(pki.ca_key)
    unfinished = pki.ca.with_suffix(".new")
    _openssl(
        "req", "-x509", "-new", "-key", pki.ca_key, "-subj", "/CN=octavo-local", "-days", _DAYS, "-out", unfinished
    )
    unfinished.replace(pki.ca)


def _make_service_account_key(pki: Pki) -> None:
    _generate_key(pki.service_account_key)
    unfinished = pki.service_account_public.with_suffix(".new")
    _openssl("pkey", "-in", pki.service_account_key, "-pubout", "-out", unfinished)
    unfinished.replace(pki.service_account_public)


def _sign(pki: Pki, name: str, subject: str, extensions: str) -> None:
    request, extension_file = pki.folder / f"{name}.csr", pki.folder / f"{name}.ext"
    extension_file.write_text(extensions)
    _generate_key(pki.key(name))
    _openssl("req", "-new", "-key", pki.key(name), "-subj", subject, "-out", request)
    _openssl(
        *(
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            pki.ca,
            "-CAkey",
            pki.ca_key,
            "-set_serial",
            f"0x{secrets.token_hex(16)}",
        ),
        *("-days", _DAYS, "-extfile", extension_file, "-out", pki.certificate(name)),
    )


def _generate_key(path: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    path.chmod(0o600)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"openssl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def _write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.touch(0o600)
    unfinished.write_text(text)
    unfinished.replace(path)
