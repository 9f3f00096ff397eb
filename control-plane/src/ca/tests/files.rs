use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

fn open(folder: &Path, change: impl FnOnce(&mut Settings)) -> Result<Authority, AuthorityError> {
    let mut settings = settings(folder);
    change(&mut settings);
    Authority::open(settings, Arc::new(ManualClock::at(start())), Arc::new(MemoryAudit::default()))
}

#[test]
fn what_is_made_belongs_to_its_owner_alone() {
    let plane = Plane::new();
    let folder = plane.folder.path().join("ca");
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
}

#[test]
fn what_others_can_look_into_is_refused() {
    let plane = Plane::new();
    let folder = plane.folder.path().join("ca");
    let Plane { folder: kept, authority, .. } = plane;
    let key = folder.join(format!("{}.key", authority.status(&all()).signer.fingerprint));
    drop(authority);
    for excess in [0o640, 0o604, 0o644] {
        set_mode(&key, excess);
        let error = open(kept.path(), |_| {}).expect_err("refused");
        assert!(matches!(&error, AuthorityError::Permissions { mode, .. } if *mode == excess), "{error}");
        assert!(error.to_string().ends_with("chmod 0600"), "{error}");
    }
    set_mode(&key, 0o600);
    set_mode(&folder, 0o755);
    assert!(matches!(open(kept.path(), |_| {}), Err(AuthorityError::Permissions { right: 0o700, .. })));
    set_mode(&folder, 0o700);
    assert!(open(kept.path(), |_| {}).is_ok());
}

#[test]
fn a_folder_is_used_by_one_control_plane() {
    let plane = Plane::new();
    assert!(matches!(open(plane.folder.path(), |_| {}), Err(AuthorityError::Locked(_))));
}

#[test]
fn a_folder_is_of_one_trust_domain() {
    let Plane { folder, authority, .. } = Plane::new();
    drop(authority);
    let other = |settings: &mut Settings| settings.trust_domain = TrustDomain::parse("other.local").expect("one");
    assert!(matches!(open(folder.path(), other), Err(AuthorityError::TrustDomain { .. })));
}

#[test]
fn a_damaged_state_is_refused_and_not_replaced() {
    let Plane { folder, authority, .. } = Plane::new();
    drop(authority);
    let path = folder.path().join("ca/state.json");
    let good = fs::read_to_string(&path).expect("a state");
    for bad in [
        "",
        "{}",
        &good.replace("\"format\": 1", "\"format\": 2"),
        &good.replace("\"signer\": \"", "\"signer\": \"../"),
    ] {
        fs::write(&path, bad).expect("written");
        assert!(matches!(open(folder.path(), |_| {}), Err(AuthorityError::Damaged { .. })), "{bad}");
        assert_eq!(fs::read_to_string(&path).expect("there"), bad);
    }
    fs::write(&path, good).expect("written");
    assert!(open(folder.path(), |_| {}).is_ok());
}

#[test]
fn the_root_is_the_same_after_a_restart() {
    let plane = Plane::new();
    let (before, issued) = (plane.authority.bundle_pem(), plane.issue());
    let plane = plane.reopened(|_| {});
    assert_eq!(plane.authority.bundle_pem(), before);
    assert_eq!(believes(&plane.authority.bundle(), &issued.chain, start()), Ok(()));
}

/// An authority made elsewhere: a root, and below it one that signs.
struct Elsewhere {
    folder: TempDir,
    root: String,
    intermediate: String,
    key: String,
}

impl Elsewhere {
    fn new(uri: &str) -> Self {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_before = (start() - DAY).into();
            params.not_after = (start() + 30 * DAY).into();
            params
        };
        let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let root = params("root").self_signed(&root_key).expect("signed");
        let issuer = Issuer::new(params("root"), root_key);
        let intermediate = params("intermediate").signed_by(&key, &issuer).expect("signed");
        Self {
            folder: TempDir::new().expect("a folder"),
            root: root.pem(),
            intermediate: intermediate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn files(&self, certificates: &str, key: &str) -> MaterialFiles {
        let files = MaterialFiles {
            certificates: self.folder.path().join("chain.pem"),
            key: self.folder.path().join("signer.key"),
        };
        fs::write(&files.certificates, certificates).expect("written");
        fs::write(&files.key, key).expect("written");
        set_mode(&files.key, 0o600);
        files
    }
}

#[test]
fn an_authority_made_elsewhere_signs_and_its_intermediate_is_sent_along() {
    let elsewhere = Elsewhere::new("spiffe://mesh.local");
    let files = elsewhere.files(&format!("{}{}", elsewhere.intermediate, elsewhere.root), &elsewhere.key);
    let folder = TempDir::new().expect("a folder");
    let authority = open(folder.path(), |settings| settings.material = Some(files)).expect("an authority");
    let signed = issue(&authority);
    assert_eq!(signed.chain.len(), 2);
    assert_eq!(authority.bundle().certificates().count(), 1);
    assert_eq!(believes(&authority.bundle(), &signed.chain, start()), Ok(()));
    assert!(authority.bundle_pem().replace('\r', "").contains(elsewhere.root.replace('\r', "").trim()));
    drop(authority);
    // The copy in the folder is what counts from now on.
    drop(elsewhere);
    let authority = open(folder.path(), |_| {}).expect("an authority");
    assert_eq!(believes(&authority.bundle(), &signed.chain, start()), Ok(()));
}

#[test]
fn files_that_are_no_authority_of_ours_are_refused() {
    let (ours, other) = (Elsewhere::new("spiffe://mesh.local"), Elsewhere::new("spiffe://other.local"));
    let leaf = Plane::new().issue();
    let leaf = super::super::bundle::pem("CERTIFICATE", &leaf.chain[0]);
    let cases = [
        (ours.intermediate.clone(), ours.key.clone(), "root at the end"),
        (format!("{}{}", ours.root, ours.intermediate), ours.key.clone(), "does not belong"),
        (format!("{}{}", ours.intermediate, ours.root), other.key.clone(), "does not belong"),
        (
            format!("{}{}", ours.intermediate, other.root),
            ours.key.clone(),
            "expected an authority of spiffe://mesh.local",
        ),
        (format!("{}{}", other.intermediate, other.root), other.key.clone(), "got one of spiffe://other.local"),
        (leaf, ours.key.clone(), "got one of spiffe://mesh.local/ns/shop/sa/payments"),
        (String::new(), ours.key.clone(), "got 0"),
        (ours.root.clone(), "no key".to_owned(), "the key cannot be read"),
    ];
    for (certificates, key, expected) in cases {
        let folder = TempDir::new().expect("a folder");
        let files = ours.files(&certificates, &key);
        let error = open(folder.path(), |settings| settings.material = Some(files)).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("PRIVATE"), "{error}");
    }
    let files = ours.files(&format!("{}{}", ours.intermediate, ours.root), &ours.key);
    set_mode(&files.key, 0o644);
    let folder = TempDir::new().expect("a folder");
    let error = open(folder.path(), |settings| settings.material = Some(files)).expect_err("refused");
    assert!(matches!(error, AuthorityError::Permissions { right: 0o640, .. }), "{error}");
}

#[test]
fn a_root_that_does_not_stand_behind_the_signer_is_refused() {
    let (ours, other) = (Elsewhere::new("spiffe://mesh.local"), Elsewhere::new("spiffe://mesh.local"));
    let files = ours.files(&format!("{}{}", ours.intermediate, other.root), &ours.key);
    let folder = TempDir::new().expect("a folder");
    let error = open(folder.path(), |settings| settings.material = Some(files)).expect_err("refused").to_string();
    assert!(error.contains("is not believed by who knows its root"), "{error}");
}

#[test]
fn an_authority_made_elsewhere_takes_over_by_rotation() {
    let (one, two) = (Elsewhere::new("spiffe://mesh.local"), Elsewhere::new("spiffe://mesh.local"));
    let files = one.files(&format!("{}{}", one.intermediate, one.root), &one.key);
    let folder = TempDir::new().expect("a folder");
    let open = || {
        let material = Some(files.clone());
        open(folder.path(), |settings| settings.material = material).expect("an authority")
    };
    let authority = open();
    let same = authority.rotate(Step::Introduce, Force::No, "test", &all());
    assert!(matches!(same, Err(AuthorityError::SameMaterial)));
    fs::write(&files.certificates, format!("{}{}", two.intermediate, two.root)).expect("written");
    fs::write(&files.key, &two.key).expect("written");
    drop(authority);
    let authority = open();
    assert_eq!(authority.bundle().certificates().count(), 1, "files alone change nothing");
    authority.rotate(Step::Introduce, Force::No, "test", &all()).expect("introduced");
    assert_eq!(authority.bundle().certificates().count(), 2);
}
