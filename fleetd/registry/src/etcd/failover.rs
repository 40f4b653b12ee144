//! One client for each etcd member, and which of them a call goes to.
//!
//! A client with several endpoints fails a quarter of its calls while one member is dead, so every
//! client here has one, and a call walks over them within its budget. Called by the store only.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::{Instant, timeout};

use super::classify::{Asked, Failure, classify};
use super::options::EtcdOptions;
use crate::store::StoreError;

/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A member that does not answer a ping within this is given up, with its watches.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a call may be sent a second time after an attempt whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Freely,
    /// Only if nothing was applied.
    IfNotApplied,
}

pub(super) struct Member {
    url: String,
    client: Mutex<Option<Client>>,
}

pub(super) struct Members {
    all: Vec<Member>,
    /// The member that answered last.
    preferred: AtomicUsize,
    connect: ConnectOptions,
    pub request_timeout: Duration,
}

impl Members {
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Endpoint {
                endpoint: String::new(),
                detail: "no endpoint is given".to_owned(),
            });
        }
        for url in &options.endpoints {
            check_endpoint(url, options.tls.is_some())?;
        }
        let all = options.endpoints.iter().map(|url| Member { url: url.clone(), client: Mutex::new(None) });
        Ok(Self {
            all: all.collect(),
            preferred: AtomicUsize::new(0),
            connect: connect_options(options),
            request_timeout: options.request_timeout,
        })
    }

    /// Asks members in turn until one answers, all were asked, or the budget is spent.
    pub async fn call<T, F, Fut>(&self, asked: Asked, repeat: Repeat, ask: F) -> Result<T, StoreError>
    where
        F: Fn(Client, Duration) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let first = self.preferred.load(Ordering::Relaxed);
        // What may be repeated gets one attempt more: a connection that broke is made anew.
        let attempts = self.all.len() + usize::from(repeat == Repeat::Freely);
        let mut failures: Vec<String> = Vec::new();
        let mut is_late = false;
        for attempt in 0..attempts {
            let index = (first + attempt) % self.all.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Half for each attempt: one that hangs must leave time for another, and a member that
            // is merely slow must get most of it.
            let is_last = attempt + 1 == attempts;
            let share = if repeat == Repeat::IfNotApplied || is_last { left } else { left / 2 };
            let member = &self.all[index];
            let outcome = timeout(share, self.attempt(member, asked, share, &ask)).await;
            is_late = outcome.is_err();
            let failure = match outcome {
                Ok(Ok(answer)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    member.forget();
                    Failure::Ambiguous(format!("no answer within {share:?}"))
                }
            };
            let next = (index + 1) % self.all.len();
            match failure {
                Failure::Final(error) => return Err(error),
                Failure::NotApplied(detail) => failures.push(format!("{}: {detail}", member.url)),
                Failure::Ambiguous(detail) => {
                    failures.push(format!("{}: {detail}", member.url));
                    if repeat == Repeat::IfNotApplied {
                        self.preferred.store(next, Ordering::Relaxed);
                        return Err(StoreError::Unknown {
                            operation: asked.operation,
                            detail: failures.join("; "),
                        });
                    }
                }
            }
            self.preferred.store(next, Ordering::Relaxed);
        }
        Err(if is_late {
            StoreError::Timeout { operation: asked.operation, after: self.request_timeout }
        } else {
            StoreError::Unavailable { operation: asked.operation, detail: failures.join("; ") }
        })
    }

    async fn attempt<T, F, Fut>(
        &self,
        member: &Member,
        asked: Asked,
        share: Duration,
        ask: &F,
    ) -> Result<T, Failure>
    where
        F: Fn(Client, Duration) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let known = member.lock().clone();
        let client = match known {
            Some(client) => client,
            None => {
                let made = Client::connect([member.url.as_str()], Some(self.connect.clone())).await;
                let client = made.map_err(|error| not_sent(classify(asked, &error)))?;
                *member.lock() = Some(client.clone());
                client
            }
        };
        ask(client, share).await
    }
}

/// While a client is only being made, the call itself cannot have been sent.
fn not_sent(failure: Failure) -> Failure {
    match failure {
        Failure::Ambiguous(detail) => Failure::NotApplied(detail),
        other => other,
    }
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().expect("nobody panics while holding it")
    }

    /// The next call makes a new connection: this one may be a black hole.
    fn forget(&self) {
        *self.lock() = None;
    }
}

fn check_endpoint(url: &str, has_tls: bool) -> Result<(), StoreError> {
    let refuse =
        |detail: &str| Err(StoreError::Endpoint { endpoint: url.to_owned(), detail: detail.to_owned() });
    let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(_)) if has_tls => {
            return refuse("certificates are configured, so it must begin with https://");
        }
        (None, Some(rest)) => rest,
        (None, None) => return refuse("it must begin with http:// or https://"),
    };
    if rest.trim_end_matches('/').is_empty() {
        return refuse("it names no host");
    }
    Ok(())
}

fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(options.connect_timeout())
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        // etcd counts pings on a connection without calls as abuse.
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((name, password)) = &options.user {
        connect = connect.with_user(name, password);
    }
    if let Some(tls) = &options.tls {
        let mut wire = TlsOptions::new();
        if let Some(ca) = &tls.ca {
            wire = wire.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &tls.identity {
            wire = wire.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(wire);
    }
    connect
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_without_scheme_is_refused_with_the_reason() {
        let error = check_endpoint("10.0.0.1:2379", false).unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
    }

    #[test]
    fn plain_endpoint_beside_certificates_is_refused() {
        assert!(check_endpoint("http://10.0.0.1:2379", true).is_err());
        assert!(check_endpoint("https://10.0.0.1:2379", true).is_ok());
    }
}
