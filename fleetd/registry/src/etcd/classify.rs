//! What an etcd error means for the caller: try another member, read again, or give up.
//!
//! Called by the fail-over. etcd tells its errors apart by gRPC code and text; the texts are those
//! of etcd 3.4 to 3.6 (`api/v3rpc/rpctypes/error.go`).

use std::error::Error as StdError;
use std::time::Duration;

use tonic::Code;

use crate::store::{LeaseId, Operation, Revision, StoreError};

/// What was asked, for the errors that name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub operation: Operation,
    pub revision: Option<Revision>,
    pub lease: Option<LeaseId>,
}

impl Asked {
    pub fn new(operation: Operation) -> Self {
        Self { operation, revision: None, lease: None }
    }
}

/// A failed attempt at one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The member never worked on it: any other may be asked.
    NotApplied(String),
    /// It may have been applied.
    Ambiguous(String),
    /// No answer within the time for it; it may have been applied.
    Silent(Duration),
    /// The connection broke, so that another has to be made. `is_sent`: it may have been applied.
    Broken { detail: String, is_sent: bool },
    /// Not applied: etcd wants a new authentication. Its simple tokens end after five minutes without a call, with the
    /// member, and with a change of the password; others end with any change of users and roles.
    Token(String),
    /// Every member would say the same.
    Final(StoreError),
}

impl Failure {
    /// As it is when authenticating anew has not helped.
    pub fn without_token(self, operation: Operation) -> Failure {
        match self {
            Failure::Token(detail) => Failure::Final(StoreError::PermissionDenied { operation, detail }),
            other => other,
        }
    }
}

pub(super) fn classify(asked: Asked, error: &etcd_client::Error) -> Failure {
    use etcd_client::Error as E;
    match error {
        E::GRpcStatus(status) => classify_status(asked, status),
        E::InvalidArgs(_) | E::InvalidUri(_) | E::EndpointError(_) => Failure::NotApplied(error.to_string()),
        E::TransportError(transport) => Failure::Broken {
            detail: with_cause(&transport.to_string(), transport),
            is_sent: !is_connect_error(transport),
        },
        _ => Failure::Ambiguous(error.to_string()),
    }
}

/// Whether a refusal of a watch may be due to the token: etcd 3.4 calls one that has ended a missing permission.
pub(super) fn may_be_token(reason: &str) -> bool {
    reason.contains("permission denied") || is_token(reason)
}

/// Told by the text, because the maintenance calls lose the code.
fn is_token(text: &str) -> bool {
    ["invalid auth token", "auth store is old", "revision in header is old", "user name is empty"]
        .iter()
        .any(|reason| text.contains(reason))
}

/// etcd takes no password while its authentication is off.
pub(super) fn is_authentication_off(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

/// The message and the cause at the bottom: there it says what is wrong with a certificate.
fn with_cause(message: &str, error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = cause.to_string();
    if message.contains(&cause) { message.to_owned() } else { format!("{message}: {cause}") }
}

fn classify_status(asked: Asked, status: &tonic::Status) -> Failure {
    let operation = asked.operation;
    let text = status.message();
    let detail = || text.to_owned();
    let refused = || Failure::Final(StoreError::Refused { operation, detail: detail() });
    if status.source().is_some_and(is_connection) {
        return Failure::Broken { detail: with_cause(text, status), is_sent: !is_connect_error(status) };
    }
    if is_token(text) {
        return Failure::Token(detail());
    }
    match status.code() {
        Code::Unavailable if text.contains("etcdserver: no leader") => Failure::NotApplied(detail()),
        // Said before it looks at the request.
        Code::Unavailable if text.contains("not supported for learner") => Failure::NotApplied(detail()),
        Code::ResourceExhausted if text.contains("too many requests") => Failure::NotApplied(detail()),
        Code::ResourceExhausted if text.contains("space exceeded") => {
            Failure::Final(StoreError::NoSpace { operation })
        }
        Code::OutOfRange if text.contains("has been compacted") => match asked.revision {
            Some(revision) => Failure::Final(StoreError::Compacted { asked: revision }),
            None => refused(),
        },
        Code::OutOfRange if text.contains("future revision") => match asked.revision {
            Some(revision) => Failure::Final(StoreError::FutureRevision { asked: revision }),
            None => refused(),
        },
        // Said by our own side of the connection.
        Code::OutOfRange | Code::ResourceExhausted if text.contains("message length too large") => {
            Failure::Final(StoreError::TooLarge { operation, detail: detail() })
        }
        Code::NotFound if text.contains("lease not found") => match asked.lease {
            Some(id) => Failure::Final(StoreError::LeaseNotFound { id }),
            None => refused(),
        },
        Code::InvalidArgument if text.contains("request is too large") => {
            Failure::Final(StoreError::TooLarge { operation, detail: detail() })
        }
        Code::InvalidArgument if text.contains("authentication failed") => denied(operation, text),
        Code::InvalidArgument
            if text.contains("auth store is old") || text.contains("user name is empty") =>
        {
            Failure::Token(detail())
        }
        Code::FailedPrecondition if text.contains("authentication") => denied(operation, text),
        Code::Unauthenticated => Failure::Token(detail()),
        Code::PermissionDenied => denied(operation, text),
        Code::Unknown if text.contains("permission denied") => denied(operation, text),
        Code::DataLoss => Failure::Final(StoreError::Corrupt { operation, detail: detail() }),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Failure::Ambiguous(detail()),
        _ => refused(),
    }
}

fn denied(operation: Operation, text: &str) -> Failure {
    Failure::Final(StoreError::PermissionDenied { operation, detail: text.to_owned() })
}

/// Said by our own side of the connection, not by etcd.
fn is_connection(source: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(source);
    while let Some(error) = next {
        // A time-out of ours is one as well, but then the connection may be sound.
        if error.is::<tonic::transport::Error>() || error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The connection was never made, so nothing was sent.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(code: Code, text: &str) -> Failure {
        let mut asked = Asked::new(Operation::Txn);
        asked.revision = Some(Revision(7));
        asked.lease = Some(LeaseId(9));
        classify(asked, &etcd_client::Error::GRpcStatus(tonic::Status::new(code, text)))
    }

    #[test]
    fn member_without_leader_has_not_applied_the_request() {
        assert!(matches!(verdict(Code::Unavailable, "etcdserver: no leader"), Failure::NotApplied(_)));
    }

    #[test]
    fn learner_has_not_applied_the_request() {
        let text = "etcdserver: rpc not supported for learner";
        assert!(matches!(verdict(Code::Unavailable, text), Failure::NotApplied(_)));
    }

    #[test]
    fn request_that_timed_out_in_etcd_may_have_been_applied() {
        assert!(matches!(verdict(Code::Unavailable, "etcdserver: request timed out"), Failure::Ambiguous(_)));
        assert!(matches!(verdict(Code::Unknown, "transport error"), Failure::Ambiguous(_)));
    }

    #[test]
    fn ended_token_asks_for_another_and_is_denied_only_after_that() {
        for (code, text) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::Unknown, "auth: invalid auth token"),
        ] {
            let failure = verdict(code, text);
            assert_eq!(failure, Failure::Token(text.to_owned()));
            let denied = StoreError::PermissionDenied { operation: Operation::Txn, detail: text.to_owned() };
            assert_eq!(failure.without_token(Operation::Txn), Failure::Final(denied));
        }
        let denied = verdict(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied, Failure::Final(StoreError::PermissionDenied { .. })), "{denied:?}");
    }

    #[test]
    fn errors_that_name_their_subject_carry_it() {
        let text = "etcdserver: mvcc: required revision has been compacted";
        let Failure::Final(error) = verdict(Code::OutOfRange, text) else { panic!("not final") };
        assert_eq!(error, StoreError::Compacted { asked: Revision(7) });
        let text = "etcdserver: requested lease not found";
        let Failure::Final(error) = verdict(Code::NotFound, text) else { panic!("not final") };
        assert_eq!(error, StoreError::LeaseNotFound { id: LeaseId(9) });
        let text = "etcdserver: mvcc: database space exceeded";
        let Failure::Final(error) = verdict(Code::ResourceExhausted, text) else { panic!("not final") };
        assert_eq!(error, StoreError::NoSpace { operation: Operation::Txn });
    }
}
