//! Secrets: what is in them becomes files.

use super::reader::At;
use crate::pb::{core, tls};

pub(super) fn secret(at: &At<'_>, message: &tls::Secret) -> Option<()> {
    use tls::secret::Type;
    unpack!(at, message => tls::Secret { take: [name, r#type], ignore: [], refuse: [] });
    match r#type {
        Some(Type::TlsCertificate(certificate)) => {
            let at = at.field("tls_certificate");
            let (chain, key) = super::tls::certificate_sources(&at, certificate)?;
            let (chain, key) = (content(&at.field("certificate_chain"), chain), content(&at.field("private_key"), key));
            let paths = at.reader.context.certificate(name);
            at.write(paths.0, chain?);
            at.write(paths.1, key?);
            Some(())
        }
        Some(Type::ValidationContext(context)) => {
            let at = at.field("validation_context");
            let (ca, names) = super::tls::validation(&at, context);
            if !names.is_empty() {
                let fix = "say it in the cluster that expects them";
                at.field("match_typed_subject_alt_names").refuse(format!("a secret has roots alone; {fix}"));
            }
            let Some(ca) = ca else {
                at.field("trusted_ca").refuse("there are no roots");
                return None;
            };
            let ca = content(&at.field("trusted_ca"), ca)?;
            at.write(at.reader.context.bundle(name), ca);
            Some(())
        }
        Some(Type::SessionTicketKeys(_)) => {
            at.field("session_ticket_keys").refuse("this is not supported; remove it");
            None
        }
        Some(Type::GenericSecret(_)) => {
            at.field("generic_secret").refuse("this is not supported; remove it");
            None
        }
        None => {
            at.refuse("the secret has no content");
            None
        }
    }
}

/// Content that travels. A file of the control plane's host means nothing here.
fn content(at: &At<'_>, source: &core::DataSource) -> Option<Vec<u8>> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineBytes(content)) => Some(content.clone()),
        Some(Specifier::InlineString(content)) => Some(content.clone().into_bytes()),
        Some(Specifier::Filename(_)) => {
            at.field("filename").refuse("a secret brings its content along; give it as `inline_string`");
            None
        }
        Some(Specifier::EnvironmentVariable(_)) | None => {
            at.refuse("a secret brings its content along; give it as `inline_string`");
            None
        }
    }
}
