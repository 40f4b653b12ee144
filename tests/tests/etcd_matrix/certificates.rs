//! An authority, and the certificates of members and of machines, as files for etcd and etcdctl.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub struct Certificates {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key.
pub type Pair = (PathBuf, PathBuf);

impl Certificates {
    pub fn new(directory: &Path) -> Certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Certificates { directory: directory.to_owned(), issuer: Issuer::new(params, key) }
    }

    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Valid for these names and addresses.
    pub fn server(&self, names: &[&str]) -> Pair {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        // etcd is also a client of itself.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.write("server", &params)
    }

    /// etcd takes the name for the user, if its authentication is on and no password is given.
    pub fn client(&self, name: &str) -> Pair {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.write(name, &params)
    }

    fn write(&self, name: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths =
            (self.directory.join(format!("{name}.pem")), self.directory.join(format!("{name}-key.pem")));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}
