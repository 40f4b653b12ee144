//! How to reach etcd. Filled in by the shell from its configuration.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::belonging::Belonging;
use super::place::Endpoint;

/// Addresses, time-outs and credentials of an etcd cluster.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port`, one for each member; asked in this order. A name is looked up again
    /// for every connection, and of several addresses the next is taken each time.
    pub endpoints: Vec<String>,
    /// Budget of one call, fail-over to other members included.
    pub request_timeout: Duration,
    /// User and password. While etcd's authentication is off they are not used, so that it can be switched on under
    /// running machines.
    pub user: Option<(String, String)>,
    pub tls: Option<EtcdTls>,
    /// Which cluster the endpoints belong to. Stores made from clones of these options agree on it.
    pub belonging: Belonging,
}

/// What is needed beside `https://` endpoints; all PEM. The files are read again for every connection.
#[derive(Debug, Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates; without it those of this system are believed.
    pub ca: Option<PathBuf>,
    /// Own certificate and key, if etcd asks for a client certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdOptions {
    /// One second a call, no credentials.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            request_timeout: Duration::from_secs(1),
            user: None,
            tls: None,
            belonging: Belonging::default(),
        }
    }

    /// With each endpoint once, however often it is named: it is one member, which says of itself one thing.
    pub(super) fn distinct(&self) -> Self {
        let mut known = Vec::new();
        let is_new = |url: &&String| match Endpoint::parse(url) {
            Ok(endpoint) if known.contains(&endpoint) => false,
            Ok(endpoint) => {
                known.push(endpoint);
                true
            }
            // Refused by who uses it.
            Err(_) => true,
        };
        let endpoints = self.endpoints.iter().filter(is_new).cloned().collect();
        Self { endpoints, ..self.clone() }
    }

    /// Leaves time for every other member after one that swallows packets.
    pub(super) fn connect_timeout(&self) -> Duration {
        let shares = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.request_timeout / shares
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("request_timeout", &self.request_timeout)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
