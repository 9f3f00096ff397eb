//! TLS to the control plane, for the proxy's own stream to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::{CertificateFiles, ControlIdentity, Place, TlsVersion};
use outrigger_config::spiffe::IdentityPattern;
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;

use super::client::{self, ClientTls, Origination, TlsKey, TlsKeyMode};
use super::material::Loader;
use super::problem::{MaterialError, MaterialReason as Reason};
use super::secrets::Secrets;
use super::server::is_dns_name;
use super::status::CertificateRole;
use super::trust::{MeshTrust, Revocations, Trust};
use super::verify::{Expect, Verifier};

/// Who is at the other end, and who we are to it.
#[derive(Debug, Clone, Copy)]
pub struct ControlTls<'a> {
    /// Who a server must be.
    pub expect: &'a ControlIdentity,
    /// Roots that it is verified by.
    pub roots: &'a Path,
    /// Our certificate, if there is one yet.
    pub own: Option<&'a CertificateFiles>,
    /// Where the settings are written.
    pub place: &'a Place,
}

impl ControlTls<'_> {
    /// Builds it from the contents of its files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn build(&self, secrets: &Secrets, now: SystemTime) -> Result<ClientTls, Vec<MaterialError>> {
        let Self { expect, roots, own, place } = *self;
        let mut loader = Loader::new(secrets, &[], now);
        let role = CertificateRole::ServerTrustBundle("controlPlane".into());
        let bundle = loader.bundle(roots, place, &role).map(Arc::new);
        let credentials = own.map(|files| loader.credentials(files, CertificateRole::Identity));
        let (Some(bundle), None | Some(Some(_))) = (bundle, &credentials) else { return Err(loader.errors) };
        let credentials = credentials.flatten();
        let identity = credentials.as_ref().and_then(|credentials| credentials.identity.clone());
        let (trust, wanted, sni, min_version) = match expect {
            ControlIdentity::Spiffe(pattern) => {
                let domains = BTreeMap::from([(Arc::from(pattern.trust_domain()), bundle)]);
                let wanted = Expect::Identities([pattern.clone()].into());
                (Trust::Mesh(Arc::new(MeshTrust::new(domains))), wanted, None, TlsVersion::V1_3)
            }
            ControlIdentity::Name(name) => {
                let Ok(server) = ServerName::try_from(name.to_string()) else {
                    let problem = Reason::Contradiction.problem("no certificate can have this name", "write another");
                    loader.fail(Path::new(&**name), place, problem);
                    return Err(loader.errors);
                };
                let sni = is_dns_name(name).then(|| server.clone());
                (Trust::Roots(bundle), Expect::Names([server].into()), sni, TlsVersion::V1_2)
            }
            ControlIdentity::Host => (Trust::Roots(bundle), Expect::Names([].into()), None, TlsVersion::V1_2),
        };
        let peers: Arc<[IdentityPattern]> = match &wanted {
            Expect::Identities(patterns) => Arc::clone(patterns),
            Expect::Clients(_) | Expect::Names(_) => Arc::default(),
        };
        let mode = TlsKeyMode::Mutual { own: identity, peers };
        let key = TlsKey { mode, sni: None, min_version, trust_epoch: 0 };
        let shape = client::Shape {
            credentials: credentials.as_ref().map(|credentials| credentials.fingerprint),
            trust: trust.fingerprint(),
            revocations: Revocations::default().fingerprint,
            expect: wanted.clone(),
            min_version,
        };
        let verifier = Arc::new(Verifier { trust, revocations: Arc::default(), expect: wanted });
        match Origination::new(shape, credentials.as_ref(), verifier, Arc::new(DefaultTimeProvider)) {
            Ok(origination) => {
                let client = ClientTls::new(key, sni, Arc::new(origination), None);
                client.activate();
                Ok(client)
            }
            Err(error) => {
                let text = format!("TLS cannot be set up: {error}");
                let problem = Reason::Unusable.problem(text, "try a certificate for ECDSA P-256");
                loader.fail(roots, place, problem);
                Err(loader.errors)
            }
        }
    }
}
