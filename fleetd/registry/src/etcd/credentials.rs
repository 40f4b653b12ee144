//! The certificates and the key as they are on disk now.
//!
//! Read whenever a connection is made, so that renewed ones need no restart. On a thread of its own: a disk that hangs
//! must stop neither the connections that are left nor the renewal of a lease. What was read last goes on to serve while
//! a file is being replaced.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use super::options::EtcdTls;

/// A healthy disk takes less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(150);

/// All PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Pems {
    pub ca: Option<Vec<u8>>,
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Credentials {
    tls: EtcdTls,
    kept: Mutex<Kept>,
    /// At most one thread, however long it takes.
    is_reading: Arc<AtomicBool>,
}

#[derive(Default)]
struct Kept {
    last: Option<Pems>,
    /// The last complaint, so that it is made once.
    told: Option<String>,
}

impl Credentials {
    pub fn new(tls: EtcdTls) -> Self {
        Self { tls, kept: Mutex::default(), is_reading: Arc::default() }
    }

    /// # Errors
    /// Which file cannot be read, while nothing was ever read.
    pub async fn read(&self) -> Result<Pems, String> {
        let read = self.read_anew().await;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, &kept.last) {
            (Ok(pems), _) => {
                *kept = Kept { last: Some(pems.clone()), told: None };
                Ok(pems)
            }
            (Err(error), Some(last)) => {
                let last = last.clone();
                if kept.told.as_ref() != Some(&error) {
                    warn!(error, "the certificates for etcd that were read before are used");
                    kept.told = Some(error);
                }
                Ok(last)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn read_anew(&self) -> Result<Pems, String> {
        let late = || "the certificates for etcd are still being read; look at the disk".to_owned();
        if self.is_reading.swap(true, Ordering::AcqRel) {
            return Err(late());
        }
        let (sender, answer) = oneshot::channel();
        let (tls, is_reading) = (self.tls.clone(), Arc::clone(&self.is_reading));
        let reading = move || {
            let read = Pems::read(&tls);
            is_reading.store(false, Ordering::Release);
            // Nobody waits any more for one that was late.
            let _ = sender.send(read);
        };
        if let Err(error) = std::thread::Builder::new().name("certificates".to_owned()).spawn(reading) {
            self.is_reading.store(false, Ordering::Release);
            return Err(format!("no thread to read the certificates for etcd: {error}"));
        }
        timeout(PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(late()))
    }
}

impl Pems {
    fn read(tls: &EtcdTls) -> Result<Self, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let ca = tls.ca.as_deref().map(read).transpose()?;
        let identity = match &tls.identity {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        Ok(Self { ca, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_renewed_file_is_read_and_one_that_is_gone_for_a_moment_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let identity = Some((path("cert.pem"), path("key.pem")));
        let credentials = Credentials::new(EtcdTls { ca: None, identity });
        let error = credentials.read().await.err().unwrap();
        assert!(error.contains("cert.pem cannot be read"), "{error}");
        let write = |text: &str| {
            std::fs::write(path("cert.pem"), text).unwrap();
            std::fs::write(path("key.pem"), text).unwrap();
        };
        let of = |text: &str| Some((text.as_bytes().to_vec(), text.as_bytes().to_vec()));
        write("first");
        assert_eq!(credentials.read().await.ok().unwrap().identity, of("first"));
        std::fs::remove_file(path("key.pem")).unwrap();
        assert_eq!(credentials.read().await.ok().unwrap().identity, of("first"));
        write("renewed");
        assert_eq!(credentials.read().await.ok().unwrap().identity, of("renewed"));
    }
}
