//! Authorities, certificates with whatever is wrong with them, and a clock that tests move.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The real time, moved.
#[derive(Debug, Default)]
pub(super) struct TestClock(AtomicI64);

impl TestClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_secs()).expect("short"), Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_secs(self.0.load(Ordering::Relaxed).unsigned_abs())
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// A certificate authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    /// What leaves send along: nothing for a root.
    chain: String,
}

impl Authority {
    pub(super) fn root(name: &str) -> Self {
        Self::root_until(name, 1000 * HOUR)
    }

    /// A root that ends this long from now.
    pub(super) fn root_until(name: &str, end: Duration) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name, SystemTime::now() + end);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, chain: String::new(), issuer: Issuer::new(params, key) }
    }

    /// A root that is over since an hour.
    pub(super) fn expired_root(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name, SystemTime::now() - HOUR);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, chain: String::new(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name, SystemTime::now() + 500 * HOUR);
        let pem = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Self { chain: format!("{pem}{}", self.chain), pem, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate_for(leaf.algorithm).expect("a key");
        let params = leaf.params();
        let pem = match &leaf.public_key {
            Some(public) => params.signed_by(public, &self.issuer),
            None => params.signed_by(&key, &self.issuer),
        };
        let pem = pem.expect("signed").pem();
        Issued { chain: format!("{pem}{}", self.chain), key: key.serialize_pem(), serial: leaf.serial }
    }

    /// A list of what this authority took back.
    pub(super) fn revocations(&self, serials: &[u64]) -> String {
        self.list(serials, SystemTime::now() + 24 * HOUR)
    }

    pub(super) fn list(&self, serials: &[u64], next_update: SystemTime) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (SystemTime::now() - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (SystemTime::now() - 48 * HOUR).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(unique()),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }
}

fn authority(name: &str, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(unique()));
    params.not_before = (SystemTime::now() - 48 * HOUR).into();
    params.not_after = not_after.into();
    params
}

/// What an authority gave out.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) serial: u64,
}

impl Issued {
    pub(super) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM")
    }
}

/// A public key that nobody has.
#[derive(Clone)]
pub(super) struct PublicKey {
    bytes: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKey {
    /// RSA with so many bits.
    pub(super) fn rsa(bits: usize) -> Self {
        let modulus = vec![0xc5; bits / 8];
        let length = |len: usize| match u8::try_from(len) {
            Ok(short) if short < 0x80 => vec![short],
            _ => {
                let long = u16::try_from(len).expect("short").to_be_bytes();
                vec![0x82, long[0], long[1]]
            }
        };
        let integer = [&[0x02][..], &length(modulus.len() + 1), &[0], &modulus].concat();
        let both = [&integer[..], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
        let bytes = [&[0x30][..], &length(both.len()), &both].concat();
        Self { bytes, algorithm: &rcgen::PKCS_RSA_SHA256 }
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// A certificate to be issued; what is not said is right.
#[derive(Clone)]
pub(super) struct Leaf {
    uris: Vec<String>,
    names: Vec<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(super) key_usages: Vec<KeyUsagePurpose>,
    pub(super) is_authority: bool,
    pub(super) public_key: Option<PublicKey>,
    pub(super) algorithm: &'static SignatureAlgorithm,
    pub(super) serial: u64,
}

impl Leaf {
    pub(super) fn new() -> Self {
        Self {
            uris: Vec::new(),
            names: Vec::new(),
            not_before: SystemTime::now() - 24 * HOUR,
            not_after: SystemTime::now() + 24 * HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            is_authority: false,
            public_key: None,
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            serial: unique(),
        }
    }

    pub(super) fn svid(id: &str) -> Self {
        Self::new().uri(id)
    }

    pub(super) fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    pub(super) fn dns(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.distinguished_name.push(DnType::OrganizationName, "tests");
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let names = self.names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        params.subject_alt_names = uris.chain(names).collect();
        params.is_ca = if self.is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.extended_key_usages.clone_from(&self.usages);
        params.key_usages.clone_from(&self.key_usages);
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params
    }

    /// One that vouches for itself.
    pub(super) fn self_signed(&self) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let chain = self.params().self_signed(&key).expect("signed").pem();
        Issued { chain, key: key.serialize_pem(), serial: self.serial }
    }
}
