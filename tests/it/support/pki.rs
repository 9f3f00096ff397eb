//! A public key infrastructure in memory: roots, intermediates, SVIDs with whatever is wrong with them, and
//! revocation lists; and the files that a proxy reads them from, replaced in one step or ConfigMap-style.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// An hour, the unit in which validity is spoken of here.
pub const HOUR: Duration = Duration::from_secs(3600);

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate (PEM).
    pub pem: String,
    /// Its key (PEM), for tools.
    pub key: String,
    /// What a leaf sends with itself: this certificate and those above it, without the root.
    chain: String,
}

impl Authority {
    /// A root of its own.
    pub fn root(name: &str) -> Self {
        let key = KeyPair::generate().expect("make a key");
        let params = authority(name);
        let pem = params.self_signed(&key).expect("sign").pem();
        Self { pem, chain: String::new(), key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("make a key");
        let params = authority(name);
        let pem = params.signed_by(&key, &self.issuer).expect("sign").pem();
        let chain = format!("{pem}{}", self.chain);
        Self { pem, chain, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate.
    pub fn issue(&self, leaf: &Leaf) -> Credential {
        let key = leaf.key.generate();
        let params = leaf.params();
        let pem = params.signed_by(&key, &self.issuer).expect("sign").pem();
        Credential { chain: format!("{pem}{}", self.chain), key: key.serialize_pem(), serial: leaf.serial }
    }

    /// Issues a certificate for the key in a signing request (DER), whatever else that says. The chain, leaf first.
    pub fn issue_for(&self, leaf: &Leaf, request: &[u8]) -> Vec<CertificateDer<'static>> {
        use x509_parser::certification_request::X509CertificationRequest;
        use x509_parser::prelude::FromDer as _;
        let (_, request) = X509CertificationRequest::from_der(request).expect("a signing request");
        request.verify_signature().expect("signed with its own key");
        let bits = &request.certification_request_info.subject_pki.subject_public_key.data;
        let key = PublicKey(bits.to_vec());
        let pem = leaf.params().signed_by(&key, &self.issuer).expect("sign").pem();
        certificates(&format!("{pem}{}", self.chain))
    }

    /// A list of what this authority revoked.
    pub fn revocations(&self, serials: &[u64]) -> String {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (now - HOUR).into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + 24 * HOUR).into(),
            crl_number: SerialNumber::from(unique()),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("sign").pem().expect("PEM")
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(unique()));
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    params.not_before = (now - HOUR).into();
    params.not_after = (now + 240 * HOUR).into();
    params
}

/// A key of somebody else, ECDSA with P-256.
struct PublicKey(Vec<u8>);

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The certificates of a PEM text.
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.expect("PEM")).collect()
}

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA with P-256.
    #[default]
    P256,
    /// ECDSA with P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa2048,
}

impl KeyKind {
    fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        }
        .expect("make a key")
    }
}

/// A certificate to be issued; what is not said is right.
#[derive(Debug, Clone)]
pub struct Leaf {
    uris: Vec<String>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    not_before: SystemTime,
    not_after: SystemTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
    key_usages: Vec<KeyUsagePurpose>,
    authority: bool,
    key: KeyKind,
    organization: String,
    /// Its serial number.
    pub serial: u64,
}

impl Leaf {
    /// Valid from an hour ago for a day, for servers and clients, without any name.
    pub fn new() -> Self {
        let now = SystemTime::now();
        Self {
            uris: Vec::new(),
            names: Vec::new(),
            addresses: Vec::new(),
            not_before: now - HOUR,
            not_after: now + 23 * HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            authority: false,
            key: KeyKind::P256,
            organization: "tests".to_owned(),
            serial: unique(),
        }
    }

    /// With one more URI.
    pub fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// With one more DNS name.
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Of this organization, which stands in its subject.
    pub fn named(mut self, organization: &str) -> Self {
        organization.clone_into(&mut self.organization);
        self
    }

    /// With one more address.
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Valid between these instants.
    pub fn valid(mut self, from: SystemTime, to: SystemTime) -> Self {
        (self.not_before, self.not_after) = (from, to);
        self
    }

    /// Valid until an hour ago.
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.valid(now - 24 * HOUR, now - HOUR)
    }

    /// Valid from an hour from now.
    pub fn future(self) -> Self {
        let now = SystemTime::now();
        self.valid(now + HOUR, now + 24 * HOUR)
    }

    /// For these purposes only.
    pub fn usages(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.usages = usages.to_vec();
        self
    }

    /// With these key usages.
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// That may itself issue certificates.
    pub fn authority(mut self) -> Self {
        self.authority = true;
        self
    }

    /// With this kind of key.
    pub fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Signed by itself.
    pub fn self_signed(&self) -> Credential {
        let key = self.key.generate();
        let pem = self.params().self_signed(&key).expect("sign").pem();
        Credential { chain: pem, key: key.serialize_pem(), serial: self.serial }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.organization.as_str());
        params.distinguished_name.push(DnType::CommonName, format!("leaf {}", self.serial));
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let names = self.names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        let addresses = self.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names = uris.chain(names).chain(addresses).collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.extended_key_usages.clone_from(&self.usages);
        params.key_usages.clone_from(&self.key_usages);
        params.is_ca = if self.authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// A certificate chain and its key (PEM).
#[derive(Debug, Clone)]
pub struct Credential {
    /// The leaf first, without the root.
    pub chain: String,
    /// PKCS #8.
    pub key: String,
    /// The leaf's serial number.
    pub serial: u64,
}

impl Credential {
    /// The chain as rustls takes it.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(|c| c.expect("PEM")).collect()
    }

    /// The key as rustls takes it.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }
}

/// A mesh: a trust domain with a root, an issuing authority below it, and a folder for its files.
pub struct Mesh {
    /// The trust domain.
    pub domain: String,
    /// The root.
    pub root: Authority,
    /// Issues the workloads' certificates.
    pub issuing: Authority,
    /// The files.
    pub files: Files,
}

impl Mesh {
    /// The trust domain `mesh.local`; its bundle is the file `bundle.pem`.
    pub fn new() -> Self {
        Self::named("mesh.local")
    }

    /// A mesh with this trust domain.
    pub fn named(domain: &str) -> Self {
        let root = Authority::root(&format!("{domain} root"));
        let issuing = root.intermediate(&format!("{domain} issuing"));
        let files = Files::new();
        files.write("bundle.pem", &root.pem);
        Self { domain: domain.to_owned(), root, issuing, files }
    }

    /// The identity of a service account: `shop/web` is `spiffe://DOMAIN/ns/shop/sa/web`.
    pub fn id(&self, account: &str) -> String {
        let (namespace, name) = account.split_once('/').expect("namespace/account");
        format!("spiffe://{}/ns/{namespace}/sa/{name}", self.domain)
    }

    /// What a service account's certificate says.
    pub fn leaf(&self, account: &str) -> Leaf {
        Leaf::new().uri(&self.id(account))
    }

    /// A service account's certificate.
    pub fn svid(&self, account: &str) -> Credential {
        self.issuing.issue(&self.leaf(account))
    }

    /// Writes a new certificate for a service account to `NAME.pem` and `NAME.key` and gives the `identity`
    /// that names them, without its closing brace.
    pub fn identity_open(&self, account: &str) -> String {
        let name = account.replace('/', "-");
        self.files.write_credential(&name, &self.svid(account));
        format!(
            "identity: {{ certificate: {}, privateKey: {}, trustBundle: {}",
            self.files.quoted(&format!("{name}.pem")),
            self.files.quoted(&format!("{name}.key")),
            self.files.quoted("bundle.pem"),
        )
    }

    /// The whole `identity` of a service account, for the top of a configuration.
    pub fn identity(&self, account: &str) -> String {
        format!("{} }}", self.identity_open(account))
    }
}

/// Files in a folder of their own, replaced in one step.
#[derive(Debug)]
pub struct Files {
    folder: TempDir,
}

impl Files {
    /// An empty folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("make a folder") }
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a file is, as YAML.
    pub fn quoted(&self, name: &str) -> String {
        format!("\"{}\"", self.path(name).display())
    }

    /// Writes a file beside its place and renames it there.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        replace(&self.path(name), content.as_ref());
    }

    /// Writes `NAME.pem` and then `NAME.key`: for a moment they do not fit, as with most tools that renew.
    pub fn write_credential(&self, name: &str, credential: &Credential) {
        self.write(&format!("{name}.pem"), &credential.chain);
        self.write(&format!("{name}.key"), &credential.key);
    }

    /// Writes both so that a program can read them, and gives their paths (certificate, key).
    pub fn give(&self, name: &str, credential: &Credential) -> (String, String) {
        self.write_credential(name, credential);
        let text = |suffix: &str| self.path(&format!("{name}.{suffix}")).display().to_string();
        (text("pem"), text("key"))
    }

    /// Writes several files at one instant, as Kubernetes does with a mounted ConfigMap or Secret: they lie in a
    /// folder of this version, `FOLDER/..data` is a link to it that is replaced, and `FOLDER/NAME` are links
    /// through `..data`.
    pub fn mount(&self, folder: &str, files: &[(&str, &str)]) {
        use std::os::unix::fs::symlink;
        let folder = self.path(folder);
        let version = format!("..v{}", unique());
        let fresh = folder.join(&version);
        std::fs::create_dir_all(&fresh).expect("make a folder");
        for (name, content) in files {
            std::fs::write(fresh.join(name), content).expect("write a file");
            let link = folder.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), &link).expect("make a link");
            }
        }
        let data = folder.join("..data");
        let before = std::fs::read_link(&data).ok();
        let next = folder.join("..data_tmp");
        symlink(&version, &next).expect("make a link");
        std::fs::rename(&next, &data).expect("replace the link");
        if let Some(before) = before {
            std::fs::remove_dir_all(folder.join(before)).expect("remove the old version");
        }
    }
}

fn replace(path: &Path, content: &[u8]) {
    let fresh = path.with_extension(format!("tmp{}", unique()));
    std::fs::write(&fresh, content).expect("write a file");
    std::fs::rename(&fresh, path).expect("replace a file");
}

/// A number that no other certificate of this process has.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
