//! Which member a call goes to, and to which it goes next.
//!
//! A client with several endpoints fails a quarter of its calls while one member is dead, so every member has a client
//! of its own, and a call walks over them within its budget. Called by the store only.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use tokio::time::{Instant, sleep, timeout_at};

use super::belonging::{Belonging, Told};
use super::classify::{Asked, Failure};
use super::member::Member;
use super::options::EtcdOptions;
use crate::store::StoreError;

/// Whether a call may be sent a second time after an attempt whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Freely,
    /// Only if nothing was applied.
    IfNotApplied,
}

/// What members say while they have none.
const NO_LEADER: &str = "no leader";

/// Before members that elect a leader are asked again.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);

/// With less left, a member that is merely slow would make a write's outcome unknown.
const WORTH_A_ROUND: Duration = Duration::from_millis(250);

pub(super) struct Members {
    pub all: Vec<Member>,
    pub belonging: Belonging,
    /// The member that answered last.
    preferred: AtomicUsize,
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
        let options = options.distinct();
        let all = options.endpoints.iter().map(|url| Member::new(url, &options));
        Ok(Self {
            all: all.collect::<Result<_, _>>()?,
            belonging: options.belonging.clone(),
            preferred: AtomicUsize::new(0),
            request_timeout: options.request_timeout,
        })
    }

    /// Asks members in turn until one answers, all were asked, or the budget is spent; all once more while they elect a
    /// leader.
    pub async fn call<T, F, Fut>(&self, asked: Asked, repeat: Repeat, ask: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
        T: Told,
    {
        let deadline = Instant::now() + self.request_timeout;
        let first = self.preferred.load(Ordering::Relaxed);
        // What may be repeated gets one attempt more: a connection that broke is made anew.
        let attempts = self.all.len() + usize::from(repeat == Repeat::Freely);
        let mut failures: Vec<String> = Vec::new();
        let mut is_late = false;
        loop {
            failures.clear();
            let mut is_electing = false;
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
                let remaining = u32::try_from(attempts - attempt).unwrap_or(u32::MAX);
                let member = &self.all[index];
                let failure = match self.attempt(member, asked, left / remaining, share, &ask).await {
                    Ok(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(failure) => failure,
                };
                self.preferred.store((index + 1) % self.all.len(), Ordering::Relaxed);
                is_late = matches!(failure, Failure::Silent(_));
                let (detail, may_be_applied) = match failure {
                    Failure::Final(error) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Err(error);
                    }
                    Failure::NotApplied(detail) | Failure::Token(detail) => (detail, false),
                    Failure::Ambiguous(detail) => (detail, true),
                    Failure::Silent(after) => (format!("no answer within {after:?}"), true),
                    Failure::Broken { detail, is_sent } => (detail, is_sent),
                };
                is_electing |= detail.contains(NO_LEADER);
                failures.push(format!("{}: {detail}", member.url()));
                if may_be_applied && repeat == Repeat::IfNotApplied {
                    return Err(StoreError::Unknown {
                        operation: asked.operation,
                        detail: failures.join("; "),
                    });
                }
            }
            // An election takes a second; what is refused for want of a leader was not applied anywhere.
            if !is_electing || deadline.saturating_duration_since(Instant::now()) <= WORTH_A_ROUND {
                break;
            }
            sleep(BETWEEN_ROUNDS).await;
        }
        Err(if is_late {
            StoreError::Timeout { operation: asked.operation, after: self.request_timeout }
        } else {
            StoreError::Unavailable { operation: asked.operation, detail: failures.join("; ") }
        })
    }

    /// One question to one member; a second one if the first met a token that has ended.
    async fn attempt<T, F, Fut>(
        &self,
        member: &Member,
        asked: Asked,
        patience: Duration,
        share: Duration,
        ask: &F,
    ) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
        T: Told,
    {
        let until = Instant::now() + share;
        let mut has_new_token = false;
        loop {
            let client = member.client(patience).await?;
            let Ok(outcome) = timeout_at(until, ask(Client::clone(&client))).await else {
                // It may be a black hole.
                member.forget(&client);
                return Err(Failure::Silent(share));
            };
            // The connection below this client may have been made anew, to a server that has come to its address.
            let outcome = outcome.and_then(|answer| match member.judge(answer.cluster()) {
                Ok(()) => Ok(answer),
                Err(stranger) => Err(Failure::Broken { detail: stranger.to_string(), is_sent: true }),
            });
            match outcome {
                Err(failure @ Failure::Broken { .. }) => {
                    member.forget(&client);
                    return Err(failure);
                }
                Err(failure @ Failure::Token(_)) => {
                    member.forget(&client);
                    if has_new_token {
                        return Err(failure.without_token(asked.operation));
                    }
                    has_new_token = true;
                }
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_named_twice_is_one_member_that_comes_to_another_cluster_once() {
        let urls = ["http://a:2379", "http://b:2379", "http://a:2379/", "http://b:2379"];
        let options = EtcdOptions::new(urls.map(str::to_owned).to_vec());
        let members = Members::new(&options).unwrap();
        let [a, b] = &members.all[..] else { panic!("{:?}", members.all) };
        assert_eq!([a.url(), b.url()], ["http://a:2379", "http://b:2379"]);
        a.judge(1).unwrap();
        b.judge(1).unwrap();
        a.judge(2).unwrap_err();
        b.judge(2).expect("etcd was made anew at every endpoint");
    }
}
