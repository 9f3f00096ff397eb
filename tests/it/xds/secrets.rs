//! Secrets of a control plane that knows nothing of us.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use outrigger_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrigger_xds::envoy::config::core::v3::data_source::Specifier;
use outrigger_xds::envoy::config::core::v3::transport_socket::ConfigType;
use outrigger_xds::envoy::config::core::v3::{AggregatedConfigSource, ConfigSource, DataSource};
use outrigger_xds::envoy::config::listener::v3::Listener;
use outrigger_xds::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, SdsSecretConfig, Secret, TlsCertificate, secret,
};
use outrigger_xds::google::protobuf::Any;
use outrigger_xds::{Kind, Resource};
use prost::{Message as _, Name as _};

use super::{Scene, resources};
use crate::support::pki::{Authority, Credential, Leaf};
use crate::support::{Ads, Proxy, Speaks, TlsClient};

/// A name that would lead elsewhere as a path.
const NAME: &str = "../../web";

/// A listener that terminates TLS with a secret, and what it leads to.
fn secured(scene: &Scene) -> Vec<Resource> {
    let mut list = resources(&format!(
        "listeners: [{{ name: in, bind: \"127.0.0.1:{}\", routes: main, tls: {{ mode: strict, \
         certificates: [{{ certificate: /web.pem, privateKey: /web.key }}] }} }}]\n\
         routes: {{ main: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
         clusters: {{ c: {{ protocol: http1, endpoints: [\"{}\"] }} }}\n",
        scene.port,
        scene.backend.addr()
    ));
    let listener = list.iter_mut().find(|one| one.kind == Kind::Listener).expect("there is one");
    let mut message = Listener::decode(&listener.body[..]).expect("a listener");
    message.metadata = None;
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..ConfigSource::default()
    };
    for socket in message.filter_chains.iter_mut().filter_map(|chain| chain.transport_socket.as_mut()) {
        let Some(ConfigType::TypedConfig(any)) = &mut socket.config_type else { panic!("a configuration") };
        let mut context = DownstreamTlsContext::decode(&any.value[..]).expect("TLS");
        let common = context.common_tls_context.as_mut().expect("certificates");
        common.tls_certificates.clear();
        common.tls_certificate_sds_secret_configs =
            vec![SdsSecretConfig { name: NAME.to_owned(), sds_config: Some(ads.clone()) }];
        *any = Any { type_url: DownstreamTlsContext::type_url(), value: context.encode_to_vec() };
    }
    listener.body = message.encode_to_vec().into();
    list
}

fn secret(version: &str, chain: &str, key: &str) -> Resource {
    let text = |text: &str| {
        Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
    };
    let certificate =
        TlsCertificate { certificate_chain: text(chain), private_key: text(key), ..TlsCertificate::default() };
    let message = Secret { name: NAME.to_owned(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
    Resource { kind: Kind::Secret, name: NAME.into(), version: version.into(), body: message.encode_to_vec().into() }
}

async fn becomes(scene: &Scene, credential: &Credential) {
    let start = std::time::Instant::now();
    while TlsClient::anonymous().served(scene.addr()).await.0.peer_serial() != credential.serial {
        assert!(start.elapsed() < crate::support::PATIENCE, "the certificate is shown");
    }
}

#[tokio::test]
async fn certificates_come_as_secrets_are_exchanged_and_refused_by_name_when_they_are_bad() {
    let authority = Authority::root("edge");
    let issue = || authority.issue(&Leaf::new().dns("shop.example"));
    let (one, two) = (issue(), issue());
    for speaks in [Speaks::Both, Speaks::Whole] {
        let scene = Scene::new().await;
        let ads = Ads::start(speaks);
        ads.set(secured(&scene));
        ads.put([secret("1", &one.chain, &one.key)]);
        let launch = super::keeps(scene.state.path());
        let yaml = super::bootstrap(&[ads.addr()]);
        let proxy = Proxy::start_yaml(&BTreeMap::new(), &yaml, &launch, crate::support::proxy::Until::Ready).await;
        becomes(&scene, &one).await;

        let folder = scene.state.path().join("secrets");
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let mode = entry.and_then(|entry| entry.metadata()).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 2, "the certificate and its key");

        // A key that does not fit, and what is no certificate.
        for (version, chain, key) in [("2", &two.chain, &one.key), ("3", &"junk".to_owned(), &two.key)] {
            let before = ads.told().len();
            ads.put([secret(version, chain, key)]);
            ads.heard("a refusal", |told| told.error.is_some() && told.kind == Kind::Secret).await;
            let told = ads.told();
            let refused = told.iter().skip(before).find(|told| told.error.is_some());
            let refused = match refused {
                Some(refused) => refused.clone(),
                None => ads.heard("one more", |told| told.error.is_some() && told.kind == Kind::Secret).await,
            };
            assert_eq!(refused.refusals[0].0, NAME);
            let said = format!("{refused:?}");
            assert!(!said.contains("PRIVATE KEY") && !said.contains(&two.key), "{said}");
            let (session, _) = TlsClient::anonymous().served(scene.addr()).await;
            assert_eq!(session.peer_serial(), one.serial, "the one before stays");
        }
        let config = proxy.admin_json("/config").await.to_string();
        assert!(!config.contains("PRIVATE KEY"), "keys are not shown");

        ads.put([secret("4", &two.chain, &two.key)]);
        becomes(&scene, &two).await;
    }
}
