//! Who asks, as far as a certificate says it. Set by `server` around a connection whose client showed one, read by
//! [`Api::by`](super::state::Api::by) for the event log. It decides nothing.
//!
//! It goes with the task of the connection and not with the request, so that no handler can forget to pass it on.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// As long as X.520 lets a common name be.
const LONGEST: usize = 64;

tokio::task_local! {
    static CALLER: String;
}

/// Runs `connection` as one of the client of this name.
pub(super) async fn scope<F: Future>(name: String, connection: F) -> F::Output {
    CALLER.scope(name, connection).await
}

/// What the event log says of who asks, if there is a certificate: its name, and behind it what they say themselves.
/// Said again, it stays as it is.
pub(super) fn signed(said: Option<&str>) -> Option<String> {
    let join = |name: &String| match said.filter(|said| !said.is_empty()) {
        None => name.clone(),
        Some(said)
            if said == name
                || said.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(" (")) =>
        {
            said.to_owned()
        }
        Some(said) => format!("{name} ({said})"),
    };
    CALLER.try_with(join).ok()
}

/// The subject's common name, else the first alternative name, else the beginning of the certificate's SHA-256.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> String {
    let name = X509Certificate::from_der(certificate).ok().and_then(|(_, parsed)| name_in(&parsed));
    name.unwrap_or_else(|| format!("certificate {}", &hex::encode(Sha256::digest(certificate))[..16]))
}

fn name_in(certificate: &X509Certificate<'_>) -> Option<String> {
    let common = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok().and_then(clean));
    common.or_else(|| {
        let names = certificate.subject_alternative_name().ok().flatten()?;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                clean(name)
            }
            _ => None,
        })
    })
}

/// On one line and of a bounded length; none if nothing is left.
fn clean(name: &str) -> Option<String> {
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common: &str, alternative: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = alternative.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_its_subject_or_an_alternative_or_itself() {
        assert_eq!(name_of(&certificate("alice", &["a.example"])), "alice");
        assert_eq!(name_of(&certificate(" a\nb\u{7} ", &[])), "ab");
        assert_eq!(name_of(&certificate("", &["a.example"])), "a.example");
        assert!(name_of(&certificate("", &[])).starts_with("certificate "));
        assert!(name_of(&CertificateDer::from(vec![1, 2, 3])).starts_with("certificate "));
        assert_eq!(name_of(&certificate(&"x".repeat(500), &[])).len(), LONGEST);
    }

    #[tokio::test]
    async fn what_a_client_says_stands_behind_its_certificates_name() {
        assert_eq!(signed(Some("me@laptop")), None);
        let names =
            |said: Option<&'static str>| scope("alice".to_owned(), async move { signed(said).unwrap() });
        assert_eq!(names(None).await, "alice");
        assert_eq!(names(Some("")).await, "alice");
        assert_eq!(names(Some("me@laptop")).await, "alice (me@laptop)");
        assert_eq!(names(Some("alice (me@laptop)")).await, "alice (me@laptop)");
        assert_eq!(names(Some("alice2")).await, "alice (alice2)");
    }
}
