//! Whether the certificates and keys that the configuration names can be read and are what they should be, and who else
//! can read the secrets. Keeps nothing of them: who uses them reads them again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Config;
use super::problem::{ConfigError, Warning};
use super::source::{Loaded, read_bounded};

/// Adds what is wrong with the files to the problems. `root`: where their paths begin; None: `/`.
pub(super) fn check(loaded: &mut Loaded, root: Option<&Path>) {
    let mut look = Look { loaded, root, found: Vec::new(), warnings: Vec::new() };
    look.certificates("etcd_cafile", |config| &config.etcd_cafile);
    look.identity(
        ("etcd_certfile", |config| &config.etcd_certfile),
        ("etcd_keyfile", |config| &config.etcd_keyfile),
    );
    look.certificates("listen_cafile", |config| &config.listen_cafile);
    look.identity(
        ("listen_certfile", |config| &config.listen_certfile),
        ("listen_keyfile", |config| &config.listen_keyfile),
    );
    let Look { found, warnings, .. } = look;
    loaded.problems.extend(found);
    loaded.warnings.extend(warnings);
}

/// What to say of a file with a secret in it that others than its owner and its group can read, or others than its owner
/// can write. Nothing of one that is not there.
pub(super) fn exposure(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let mode = meta.permissions().mode() & 0o7777;
    (mode & 0o026 != 0).then(|| {
        format!(
            "{} has mode {mode:04o}, so that others can get at the secret in it; make it 0600, or 0640",
            path.display()
        )
    })
}

type PathOf = fn(&Config) -> &Option<PathBuf>;

struct Look<'a> {
    loaded: &'a Loaded,
    root: Option<&'a Path>,
    found: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Look<'_> {
    fn place(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap_or(path);
        self.root.map_or_else(|| path.to_owned(), |root| root.join(below))
    }

    /// The file's bytes, if it is named and can be read.
    fn read(&mut self, key: &'static str, path: PathOf) -> Option<(PathBuf, Vec<u8>)> {
        let path = path(&self.loaded.config).clone()?;
        let place = self.place(&path);
        match read_bounded(&place) {
            Ok(bytes) => Some((path, bytes)),
            Err(error) => {
                self.refuse(key, &path, &format!("a file that can be read; {}: {error}", place.display()));
                None
            }
        }
    }

    fn refuse(&mut self, key: &'static str, path: &Path, expected: &str) {
        self.found.push(ConfigError::BadValue {
            origin: self.loaded.origin(key),
            key,
            value: path.display().to_string(),
            expected: expected.to_owned(),
        });
    }

    fn certificates(&mut self, key: &'static str, path: PathOf) -> Option<Vec<CertificateDer<'static>>> {
        let (path, bytes) = self.read(key, path)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        if chain.is_none() {
            self.refuse(key, &path, "a file with certificates in PEM (-----BEGIN CERTIFICATE-----)");
        }
        chain
    }

    fn identity(&mut self, certificate: (&'static str, PathOf), key: (&'static str, PathOf)) {
        let chain = self.certificates(certificate.0, certificate.1);
        let Some((path, bytes)) = self.read(key.0, key.1) else { return };
        if let Some(exposed) = exposure(&self.place(&path)) {
            let text = format!("{}: {exposed}", key.0);
            self.warnings.push(Warning { origin: self.loaded.origin(key.0), text });
        }
        let Ok(secret) = PrivateKeyDer::from_pem_slice(&bytes) else {
            self.refuse(key.0, &path, "a file with a private key in PEM (-----BEGIN PRIVATE KEY-----)");
            return;
        };
        let Some(chain) = chain else { return };
        let together = CertifiedKey::from_der(chain, secret, &ring::default_provider());
        // Other faults than this one are those of whoever uses them: not every client knows the same kinds of keys.
        if let Err(rustls::Error::InconsistentKeys(_)) = together {
            self.refuse(key.0, &path, &format!("the key of the certificate in {}", certificate.0));
        }
    }
}
