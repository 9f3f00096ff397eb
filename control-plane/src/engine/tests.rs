use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::ca::{Authority, Bundle, MemoryAudit, Settings, SystemClock};
use crate::store::Sqlite;

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: { name: a, namespace: shop }\nspec: { ports: [{ port: 80 }] }\n";

/// An engine on a disk, with a directory that is looked at when the test says so.
struct Case {
    folder: TempDir,
    engine: Engine,
}

fn domain() -> TrustDomain {
    TrustDomain::parse("mesh.local").expect("a trust domain")
}

fn roots(folder: &Path) -> Arc<Bundle> {
    let settings = Settings::new(domain(), folder.join("ca"));
    let authority = Authority::open(settings, Arc::new(SystemClock), Arc::new(MemoryAudit::default()));
    authority.expect("an authority").bundle()
}

fn open(folder: &Path) -> Engine {
    let store = Arc::new(Sqlite::open(&folder.join("data")).expect("a store"));
    let publisher = Publisher::start(roots(folder)).expect("a thread");
    Engine::open(store, domain(), publisher).expect("it opens")
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("manifests")).expect("a folder");
        let engine = open(folder.path());
        Self { folder, engine }
    }

    fn restart(self) -> Self {
        let Self { folder, engine } = self;
        engine.publisher.stop();
        drop(engine);
        let engine = open(folder.path());
        Self { folder, engine }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join("manifests").join(name);
        fs::write(path, text).expect("written");
    }

    fn look(&self) {
        let root = self.folder.path().join("manifests");
        let found = Found::in_directory(&root).expect("it can be listed");
        self.engine.take_directory("manifests", found).expect("it is taken");
    }

    fn push(&self, text: &str) -> Result<Applied, Refusal> {
        let documents = vec![Document::new("push.yaml", text)];
        self.engine.apply(&admin(), &Push { documents, ..Push::default() })
    }

    fn text(&self, name: &str) -> Option<String> {
        let id = ObjectId::new(manifest::Kind::Service, "shop", name);
        self.engine.view().held(&id).map(|held| held.document.text.to_string())
    }

    fn problems(&self, file: &str) -> usize {
        let directory = self.engine.directory().expect("it was looked at");
        directory.files.iter().find(|one| one.file == file).map_or(0, |one| one.problems.len())
    }
}

fn admin() -> Actor {
    Actor { who: "token:admin".to_owned(), role: Role::Admin, from: String::new() }
}

fn port(number: u16) -> String {
    SERVICE.replace("port: 80", &format!("port: {number}"))
}

#[test]
fn a_file_is_taken_as_it_was_in_a_rollback_until_it_changes_also_after_a_restart() {
    let case = Case::new();
    case.write("a.yaml", SERVICE);
    case.look();
    case.write("a.yaml", &port(81));
    case.look();
    let rolled = case.engine.rollback(&admin(), 1, "", false).expect("it goes back");
    assert_eq!(rolled.generation, Some(3));
    case.look();
    assert_eq!(case.text("a").as_deref(), Some(SERVICE), "the file has not changed since");
    let case = case.restart();
    case.look();
    assert_eq!((case.text("a").as_deref(), case.engine.view().number()), (Some(SERVICE), 3));
    case.write("a.yaml", &port(82));
    case.look();
    assert_eq!(case.text("a"), Some(port(82)));
    // And from now on it is an ordinary file again.
    let case = case.restart();
    case.write("a.yaml", SERVICE);
    case.look();
    assert_eq!(case.text("a").as_deref(), Some(SERVICE));
}

#[test]
fn a_file_that_was_removed_comes_back_with_a_rollback_and_goes_with_the_next_one() {
    let case = Case::new();
    case.write("a.yaml", SERVICE);
    case.look();
    fs::remove_file(case.folder.path().join("manifests/a.yaml")).expect("removed");
    case.look();
    assert_eq!(case.text("a"), None);
    case.engine.rollback(&admin(), 1, "", false).expect("it goes back");
    case.look();
    assert!(case.text("a").is_some(), "there is no file that says otherwise");
    case.engine.rollback(&admin(), 2, "", false).expect("it goes back");
    case.look();
    assert_eq!(case.text("a"), None);
}

#[test]
fn what_cannot_be_read_keeps_its_objects_and_says_why() {
    let case = Case::new();
    case.write("a.yaml", SERVICE);
    case.write("b.yaml", &SERVICE.replace("name: a", "name: b"));
    case.look();
    let number = case.engine.view().number();
    fs::write(case.folder.path().join("manifests/a.yaml"), [0xff, 0xfe]).expect("written");
    case.write("b.yaml", "kind: {");
    case.look();
    assert_eq!((case.engine.view().number(), case.engine.view().objects().len()), (number, 2));
    assert!(case.problems("a.yaml") > 0 && case.problems("b.yaml") > 0);
    // A push of somebody else goes on meanwhile.
    case.push(&SERVICE.replace("name: a", "name: c")).expect("it is taken");
    let case = case.restart();
    case.look();
    assert_eq!(case.engine.view().objects().len(), 3);
    case.write("a.yaml", &port(81));
    case.look();
    assert_eq!((case.text("a"), case.problems("a.yaml")), (Some(port(81)), 0));
}

#[test]
fn a_directory_that_is_away_is_not_an_empty_one() {
    let case = Case::new();
    case.write("a.yaml", SERVICE);
    case.look();
    let away = case.folder.path().join("manifests");
    fs::rename(&away, case.folder.path().join("elsewhere")).expect("moved");
    assert!(Found::in_directory(&away).is_err());
    assert!(case.text("a").is_some());
}

#[test]
fn a_push_of_nothing_and_of_what_stands_already_makes_no_generation() {
    let case = Case::new();
    assert!(matches!(case.push(""), Err(Refusal::NotFound(_))));
    assert!(matches!(case.push("# nothing\n---\n"), Err(Refusal::NotFound(_))));
    assert_eq!(case.push(SERVICE).expect("taken").generation, Some(1));
    assert_eq!(case.push(SERVICE).expect("taken").generation, None);
    assert_eq!(case.engine.view().number(), 1);
}

#[test]
fn an_object_that_is_pushed_twice_at_once_is_refused() {
    let case = Case::new();
    let Err(Refusal::Invalid { problems, .. }) = case.push(&format!("{SERVICE}---\n{}", port(81))) else {
        panic!("it is taken");
    };
    assert!(problems[0].diagnostic.message.contains("written twice"), "{problems:?}");
    assert_eq!(case.engine.view().number(), 0);
}

#[test]
fn workloads_of_another_trust_domain_than_the_authority_s_are_refused() {
    let case = Case::new();
    let policy = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: outrigger-system }\nspec: { trustDomain: other.example }\n";
    case.push(policy).expect("nobody has an identity yet");
    let workload = "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: { name: w, namespace: shop }\nspec: { serviceAccount: w, address: 127.0.0.1, uses: [] }\n";
    let Err(Refusal::Conflict(message)) = case.push(workload) else { panic!("it is taken") };
    assert!(message.contains("other.example") && message.contains("mesh.local"), "{message}");
}

#[test]
fn a_folder_that_cannot_be_listed_is_not_an_empty_one() {
    let case = Case::new();
    let (root, folder) = (case.folder.path().join("manifests"), case.folder.path().join("manifests/team"));
    fs::create_dir(&folder).expect("a folder");
    case.write("team/a.yaml", SERVICE);
    case.look();
    // A link in its place that leads out of the directory.
    fs::rename(&folder, case.folder.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink(case.folder.path().join("elsewhere"), &folder).expect("linked");
    case.look();
    assert_eq!((case.text("a").as_deref(), case.problems("team")), (Some(SERVICE), 1));
    fs::remove_file(&folder).expect("removed");
    case.look();
    assert_eq!(case.text("a"), None, "now it is gone");
    assert!(Found::in_directory(&root).expect("listed").files.is_empty());
}

#[test]
fn a_link_is_followed_within_the_directory_and_not_out_of_it() {
    let case = Case::new();
    fs::write(case.folder.path().join("secret"), SERVICE.replace("name: a", "name: secret")).expect("written");
    let link = |target: &str, name: &str| {
        let name = case.folder.path().join("manifests").join(name);
        std::os::unix::fs::symlink(target, name).expect("linked");
    };
    // As a ConfigMap is mounted.
    fs::create_dir(case.folder.path().join("manifests/..1")).expect("a folder");
    case.write("..1/a.yaml", SERVICE);
    link("..1", "..data");
    link("..data/a.yaml", "a.yaml");
    link("../secret", "secret.yaml");
    case.look();
    assert_eq!((case.text("a").as_deref(), case.text("secret")), (Some(SERVICE), None));
    let directory = case.engine.directory().expect("it was looked at");
    let shown = directory.files.iter().find(|file| file.file == "secret.yaml").expect("it is shown");
    let said = shown.problems[0].diagnostic.to_string();
    assert!(said.contains("leads out") && !said.contains("kind"), "{said}");
}

fn pusher(namespace: &str) -> Actor {
    let role = Role::Pusher { namespaces: vec![namespace.to_owned()] };
    Actor { who: "token:pusher".to_owned(), role, from: String::new() }
}

#[test]
fn a_pusher_changes_nothing_beyond_its_namespaces_however_it_is_written() {
    let case = Case::new();
    case.push(SERVICE).expect("taken");
    let bank = SERVICE.replace("namespace: shop", "namespace: bank");
    let entry = |text: &str| format!("- {}", text.trim_end().replace('\n', "\n  "));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}\n{}\n", entry(&bank), entry(&port(81)));
    let policy = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: outrigger-system }\nspec: { mtls: { mode: permissive } }\n";
    let nowhere = SERVICE.replace(", namespace: shop", "");
    let document = |text: &str| vec![Document::new("push.yaml", text)];
    let id = ObjectId::new(manifest::Kind::Service, "shop", "a");
    let pushes = [
        ("two documents", Push { documents: document(&format!("{bank}---\n{}", port(81))), ..Push::default() }),
        ("a list", Push { documents: document(&list), ..Push::default() }),
        ("the mesh", Push { documents: document(policy), ..Push::default() }),
        ("the namespace of those without", Push { documents: document(&nowhere), ..Push::default() }),
        ("by id", Push { remove: vec![id], ..Push::default() }),
        ("by text", Push { remove_documents: document(SERVICE), ..Push::default() }),
        ("beside its own", Push { documents: document(&bank), prune: vec!["shop".to_owned()], ..Push::default() }),
    ];
    for (how, push) in pushes {
        let refused = case.engine.apply(&pusher("bank"), &push);
        assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{how}: {refused:?}");
        let every = case.engine.apply(&pusher("*"), &push);
        assert!(how != "the mesh" || matches!(every, Err(Refusal::Forbidden(_))), "{how}: {every:?}");
        case.push(SERVICE).expect("as it was");
    }
    let push = Push { documents: document(&bank), ..Push::default() };
    case.engine.apply(&pusher("bank"), &push).expect("its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_last_generation_is_woken_by_it() {
    let within = std::time::Duration::from_secs(10);
    let folder = tempfile::tempdir().expect("a folder");
    let roots = roots(folder.path());
    for round in 0..300 {
        let publisher = Publisher::start(Arc::clone(&roots)).expect("a thread");
        let waiting = tokio::spawn({
            let publisher = publisher.clone();
            async move { publisher.settled().await }
        });
        tokio::task::yield_now().await;
        publisher.publish(1, Arc::default());
        tokio::time::timeout(within, waiting).await.unwrap_or_else(|_| panic!("round {round}")).expect("no panic");
        assert!(publisher.is_ready());
        publisher.stop();
    }
}

#[test]
fn what_proxies_are_given_is_in_the_view_already() {
    let case = Case::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let given = case.engine.publisher().generation();
                let known = case.engine.view().number();
                assert!(known >= given, "proxies are given {given}, and whoever hears of it finds {known}");
                looks += 1;
            }
            looks
        });
        for port in 1..=200 {
            case.push(&SERVICE.replace("port: 80", &format!("port: {port}"))).expect("taken");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looking.join().expect("it holds") > 200);
    });
}

#[test]
fn a_dry_run_is_compared_with_the_latest_generation_also_before_proxies_are_given_that() {
    let case = Case::new();
    let text = |account: usize| {
        format!(
            "{SERVICE}---\napiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: w, namespace: shop }}\n\
             spec: {{ serviceAccount: a{account}, address: 127.0.0.1 }}\n"
        )
    };
    for account in 0..50 {
        case.push(&text(account)).expect("taken");
        let documents = vec![Document::new("push.yaml", &text(account))];
        let again = Push { documents, dry_run: true, ..Push::default() };
        let impact = case.engine.apply(&admin(), &again).expect("looked at").impact;
        assert_eq!((impact.proxies, impact.routes), (0, 0), "after push {account}: {}", impact.summary);
    }
}

#[tokio::test]
async fn endpoints_alone_are_told_apart_from_all_other_changes() {
    let case = Case::new();
    let publisher = case.engine.publisher().clone();
    let settled = async || {
        let within = std::time::Duration::from_secs(10);
        tokio::time::timeout(within, publisher.settled()).await.expect("it is compiled");
        *crate::fleet::Source::changes(&publisher).borrow()
    };
    let workload = "---\napiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: { name: w, namespace: shop }\nspec: { serviceAccount: w, address: 127.0.0.1 }\n";
    let slice = |address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: a, namespace: shop, labels: {{ kubernetes.io/service-name: a }} }}\n\
             addressType: IPv4\nports: [{{ port: 80 }}]\nendpoints: [{{ addresses: [{address}] }}]\n"
        )
    };
    case.push(&format!("{SERVICE}{workload}{}", slice("10.0.0.1"))).expect("taken");
    let first = settled().await;
    case.push(&slice("10.0.0.2")).expect("taken");
    let second = settled().await;
    assert_eq!((second.endpoints, second.others), (first.endpoints + 1, first.others));
    case.push(&SERVICE.replace("name: a", "name: b")).expect("taken");
    let third = settled().await;
    assert!(third.others > second.others);
    case.push(&SERVICE.replace("namespace: shop", "namespace: bank")).expect("taken");
    let fourth = settled().await;
    assert_eq!((fourth.endpoints, fourth.others), (third.endpoints, third.others + 1), "a generation for nobody");
}
