//! What is wrong when TLS fails, in words for a person, each with the next step. Made from rustls's errors by
//! `error`; nothing is decided by it.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why a server was not believed, or did not believe this client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error(
        "its certificate is signed by nobody that this client trusts; give the certificate of its authority with --ca-file"
    )]
    UntrustedServer,
    #[error(
        "its certificate is that of an authority and cannot be a server's; let the authority sign one for the server, \
         and give the authority's own with --ca-file"
    )]
    ServerShowsAuthority,
    #[error(
        "its certificate is not for this name{}; use a name that it has in --endpoint, or make a certificate with this \
         name as subjectAltName", presented(.names)
    )]
    WrongName { names: Vec<String> },
    #[error(
        "its certificate has expired{}; renew it on the server, or correct the clock of this machine", days(*.seconds_ago)
    )]
    ServerExpired { seconds_ago: Option<u64> },
    #[error(
        "its certificate is not valid yet; correct the clock of this machine, or of the one that made it"
    )]
    ServerNotValidYet,
    #[error("its certificate cannot be used: {0}; see docs/usage/remote.md for how to make one")]
    ServerCertificate(String),
    #[error(
        "it answers only clients with a certificate; give one with --cert-file and --key-file that the server's \
         authority has signed"
    )]
    ClientCertificateMissing,
    #[error(
        "it does not accept this client's certificate: {0}; give one with --cert-file and --key-file that is signed by \
         an authority in the server's listen_cafile and has not expired"
    )]
    ClientCertificateRefused(&'static str),
    #[error(
        "it does not speak TLS; write http:// in --endpoint if it listens on a loopback address, or set listen_certfile there"
    )]
    NoTls,
    #[error("TLS with it failed: {0}; check that --endpoint leads to fleetd")]
    Other(String),
}

fn presented(names: &[String]) -> String {
    if names.is_empty() {
        " and has none at all".to_owned()
    } else {
        format!(", but for {}", names.join(", "))
    }
}

fn days(seconds_ago: Option<u64>) -> String {
    match seconds_ago.map(|seconds| seconds / 86_400) {
        None => String::new(),
        Some(0) => " today".to_owned(),
        Some(1) => " yesterday".to_owned(),
        Some(days) => format!(" {days} days ago"),
    }
}

impl TlsProblem {
    /// The problem that is the cause of `error`, if TLS is.
    pub(super) fn behind(error: &(dyn StdError + 'static)) -> Option<TlsProblem> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<Error>() {
                return Some(TlsProblem::of(error));
            }
            // What an io error wraps is none of its sources.
            if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                next = Some(wrapped);
                continue;
            }
            next = error.source();
        }
        None
    }

    fn of(error: &Error) -> TlsProblem {
        match error {
            Error::InvalidCertificate(error) => TlsProblem::of_certificate(error),
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                TlsProblem::ClientCertificateMissing
            }
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsProblem::NoTls,
            other => {
                let refusal = if let Error::AlertReceived(alert) = other { refusal(*alert) } else { None };
                refusal.map_or_else(
                    || TlsProblem::Other(other.to_string()),
                    TlsProblem::ClientCertificateRefused,
                )
            }
        }
    }

    fn of_certificate(error: &CertificateError) -> TlsProblem {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsProblem::UntrustedServer,
            CertificateError::NotValidForName => TlsProblem::WrongName { names: Vec::new() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                TlsProblem::WrongName { names: presented.iter().map(|name| plain(name)).collect() }
            }
            CertificateError::Expired => TlsProblem::ServerExpired { seconds_ago: None },
            CertificateError::ExpiredContext { time, not_after } => {
                TlsProblem::ServerExpired { seconds_ago: time.as_secs().checked_sub(not_after.as_secs()) }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsProblem::ServerNotValidYet
            }
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                TlsProblem::ServerShowsAuthority
            }
            other => TlsProblem::ServerCertificate(other.to_string()),
        }
    }
}

/// `DnsName("a.example")` and `IpAddress(10.0.0.1)` without their kinds.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

/// What an alert says of the certificate that was shown; none if it is about something else.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "its authority is not known there",
        // An authority that was made anew with its old name.
        AlertDescription::DecryptError => "it is not signed by the key of the authority that is known there",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::UnsupportedCertificate => "it is not made for clients",
        AlertDescription::BadCertificate => "it cannot be used",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => "it is not accepted",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_however_it_is_wrapped() {
        let alert = || Error::AlertReceived(AlertDescription::CertificateRequired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert()));
        for error in [&alert() as &(dyn StdError + 'static), &wrapped] {
            assert_eq!(TlsProblem::behind(error), Some(TlsProblem::ClientCertificateMissing));
        }
        assert_eq!(TlsProblem::behind(&io::Error::other("else")), None);
    }

    #[test]
    fn names_and_dates_are_told_in_words() {
        let wrong =
            TlsProblem::WrongName { names: vec![plain("DnsName(\"a.example\")"), plain("IpAddress(::1)")] };
        assert!(wrong.to_string().contains("this name, but for a.example, ::1;"), "{wrong}");
        let nameless = TlsProblem::WrongName { names: Vec::new() };
        assert!(nameless.to_string().contains("this name and has none at all;"), "{nameless}");
        for (seconds, words) in
            [(60, "expired today;"), (90_000, "expired yesterday;"), (864_000, "expired 10 days ago;")]
        {
            let text = TlsProblem::ServerExpired { seconds_ago: Some(seconds) }.to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
