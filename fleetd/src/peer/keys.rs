//! This machine's key pair and certificate, made once and kept in the state directory.

use std::io;
use std::path::{Path, PathBuf};

use fleet_core::MachineId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// Certificate and private key, in PEM.
const FILE: &str = "peer.pem";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot make a key pair")]
    Generate { source: rcgen::Error },
    #[error("cannot read {}; make it readable, or remove it to have a new one made", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate with its key; remove it to have a new one made", path.display())]
    Malformed { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("cannot write {}; make its directory writable", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A certificate and its key.
#[derive(Debug)]
pub struct PeerKeys {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Clone for PeerKeys {
    fn clone(&self) -> PeerKeys {
        PeerKeys { certificate: self.certificate.clone(), key: self.key.clone_key() }
    }
}

impl PeerKeys {
    /// The keys in `directory`, made and kept there if there are none.
    ///
    /// # Errors
    /// A file that cannot be read, makes no sense, or cannot be written.
    pub fn open(directory: &Path, machine: &MachineId) -> Result<PeerKeys, KeysError> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Ok(pem) => parse(&pem).map_err(|source| KeysError::Malformed { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (keys, pem) = make(machine)?;
                crate::durable::replace(&path, pem.as_bytes())
                    .map_err(|source| KeysError::Write { path, source })?;
                Ok(keys)
            }
            Err(source) => Err(KeysError::Read { path, source }),
        }
    }

    /// New keys that are kept nowhere: for simulations.
    ///
    /// # Errors
    /// `Generate`.
    pub fn generate(machine: &MachineId) -> Result<PeerKeys, KeysError> {
        make(machine).map(|(keys, _)| keys)
    }

    /// For `presence`: SHA-256 of the certificate, lower-case hex.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// SHA-256 of a certificate, lower-case hex.
#[must_use]
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(certificate))
}

fn make(machine: &MachineId) -> Result<(PeerKeys, String), KeysError> {
    let generate = |source| KeysError::Generate { source };
    let key = rcgen::KeyPair::generate().map_err(generate)?;
    let mut params = rcgen::CertificateParams::default();
    // For people who look at it; nothing is decided by the name.
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("fleetd on {machine}"));
    let certificate = params.self_signed(&key).map_err(generate)?;
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    let keys = PeerKeys {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    };
    Ok((keys, pem))
}

fn parse(pem: &[u8]) -> Result<PeerKeys, rustls::pki_types::pem::Error> {
    Ok(PeerKeys {
        certificate: CertificateDer::from_pem_slice(pem)?,
        key: PrivateKeyDer::from_pem_slice(pem)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_readable_by_root_alone() {
        let directory = tempfile::tempdir().unwrap();
        let machine = MachineId::parse("m1").unwrap();
        let first = PeerKeys::open(directory.path(), &machine).unwrap();
        let again = PeerKeys::open(directory.path(), &machine).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 64);
        let mode = std::fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(PeerKeys::generate(&machine).unwrap().fingerprint(), first.fingerprint());
    }

    #[test]
    fn a_damaged_file_is_named_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "nonsense").unwrap();
        let error = PeerKeys::open(directory.path(), &MachineId::parse("m1").unwrap()).unwrap_err();
        assert!(error.to_string().contains("peer.pem"), "{error}");
    }
}
