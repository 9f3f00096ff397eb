use std::os::unix::fs::symlink;

use super::*;

const LONG: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(10);

fn watch(files: &[&Path]) -> Watch {
    let mut watch = Watch::new("test", QUIET);
    watch.set(files.iter().map(|file| file.to_path_buf()).collect());
    watch
}

async fn hears(watch: &mut Watch) -> bool {
    timeout(LONG, watch.changed()).await.is_ok()
}

/// Replaces a link in one step.
fn relink(target: &Path, link: &Path) {
    let fresh = link.with_extension("fresh");
    symlink(target, &fresh).expect("linked");
    fs::rename(fresh, link).expect("swapped");
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("there");
    (folder, path)
}

#[tokio::test]
async fn a_replaced_file_is_noticed_again_and_again() {
    let (_keep, folder) = folder();
    let path = folder.join("c.yaml");
    fs::write(&path, "0").expect("written");
    let mut watch = watch(&[&path]);
    for round in 1..4 {
        let fresh = folder.join("fresh");
        fs::write(&fresh, round.to_string()).expect("written");
        fs::rename(&fresh, &path).expect("replaced");
        assert!(hears(&mut watch).await, "round {round}");
        assert_eq!(fs::read_to_string(&path).expect("read"), round.to_string());
    }
}

/// The wait is one of several that a loop chooses from: another may end first, in the middle of a change.
#[tokio::test]
async fn a_change_during_a_wait_that_was_given_up_is_told_by_the_next() {
    let (_keep, folder) = folder();
    let path = folder.join("c.yaml");
    fs::write(&path, "0").expect("written");
    let mut watch = Watch::new("test", LONG / 50);
    watch.set([path.clone()].into());
    fs::write(&path, "1").expect("written");
    // Long enough to hear it, too short for the quiet after it.
    assert!(timeout(LONG / 100, watch.changed()).await.is_err());
    assert!(hears(&mut watch).await);
}

#[tokio::test]
async fn the_swap_of_a_configmap_is_noticed() {
    let (_keep, folder) = folder();
    let version = |number: usize| {
        let inner = format!("..v{number}");
        fs::create_dir(folder.join(&inner)).expect("created");
        fs::write(folder.join(&inner).join("c.yaml"), number.to_string()).expect("written");
        let link = folder.join("..data_tmp");
        symlink(&inner, &link).expect("linked");
        fs::rename(link, folder.join("..data")).expect("swapped");
    };
    version(0);
    let path = folder.join("c.yaml");
    symlink("..data/c.yaml", &path).expect("linked");
    let mut watch = watch(&[&path]);
    for number in 1..4 {
        version(number);
        assert!(hears(&mut watch).await, "version {number}");
        assert_eq!(fs::read_to_string(&path).expect("read"), number.to_string());
    }
}

#[tokio::test]
async fn the_swap_of_a_link_to_a_folder_elsewhere_is_noticed() {
    let (_keep, folder) = folder();
    for number in 0..4 {
        fs::create_dir_all(folder.join(format!("store/{number}"))).expect("created");
        fs::write(folder.join(format!("store/{number}/a.pem")), number.to_string()).expect("written");
    }
    fs::create_dir(folder.join("etc")).expect("created");
    let link = folder.join("etc/current");
    symlink("../store/0", &link).expect("linked");
    let path = link.join("a.pem");
    let mut watch = watch(&[&path]);
    for number in 1..4 {
        relink(Path::new(&format!("../store/{number}")), &link);
        assert!(hears(&mut watch).await, "swap {number}");
        assert_eq!(fs::read_to_string(&path).expect("read"), number.to_string());
        // Where the link leads now is watched too.
        fs::write(&path, "changed in place").expect("written");
        assert!(hears(&mut watch).await, "in place {number}");
    }
}

#[tokio::test]
async fn files_in_several_folders_are_watched_and_what_is_no_longer_asked_for_is_not() {
    let (_keep, folder) = folder();
    let paths: Vec<PathBuf> = ["a/one.pem", "b/two.pem"].iter().map(|name| folder.join(name)).collect();
    for path in &paths {
        fs::create_dir(path.parent().expect("a folder")).expect("created");
        fs::write(path, "0").expect("written");
    }
    let mut watch = watch(&[&paths[0], &paths[1]]);
    for path in &paths {
        fs::write(path, "1").expect("written");
        assert!(hears(&mut watch).await, "{}", path.display());
    }
    watch.set([paths[1].clone()].into());
    assert_eq!(watch.folders.len(), 1);
    fs::write(&paths[1], "2").expect("written");
    assert!(hears(&mut watch).await);
}

#[tokio::test]
async fn a_file_whose_folder_comes_later_is_noticed() {
    let (_keep, folder) = folder();
    let path = folder.join("later/a.pem");
    let mut watch = watch(&[&path]);
    fs::create_dir(folder.join("later")).expect("created");
    assert!(hears(&mut watch).await, "the folder");
    fs::write(&path, "1").expect("written");
    assert!(hears(&mut watch).await, "the file");
}

#[tokio::test]
async fn a_folder_that_was_replaced_is_watched_anew() {
    let (_keep, folder) = folder();
    let path = folder.join("certs/a.pem");
    fs::create_dir(folder.join("certs")).expect("created");
    fs::write(&path, "0").expect("written");
    let mut watch = watch(&[&path]);
    fs::create_dir(folder.join("fresh")).expect("created");
    fs::write(folder.join("fresh/a.pem"), "1").expect("written");
    fs::rename(folder.join("certs"), folder.join("old")).expect("moved");
    fs::rename(folder.join("fresh"), folder.join("certs")).expect("moved");
    assert!(hears(&mut watch).await, "the old one was moved away");
    fs::write(&path, "2").expect("written");
    assert!(hears(&mut watch).await, "the new one is heard");
}

#[test]
fn every_link_on_the_way_is_a_step_and_a_ring_of_links_ends() {
    let (_keep, folder) = folder();
    fs::create_dir_all(folder.join("real/deep")).expect("created");
    fs::write(folder.join("real/deep/f"), "").expect("written");
    symlink("real", folder.join("one")).expect("linked");
    symlink(folder.join("one/deep"), folder.join("two")).expect("linked");
    let steps = |path: &str| {
        let mut steps = HashSet::new();
        steps_to(&folder.join(path), &mut steps);
        let mut steps: Vec<String> =
            steps.iter().map(|s| s.strip_prefix(&folder).expect("inside").display().to_string()).collect();
        steps.sort();
        steps
    };
    assert_eq!(steps("two/../deep/./f"), ["one", "real/deep/f", "two"]);
    assert_eq!(steps("real/nothing/f"), ["real/nothing"]);
    symlink("ring", folder.join("ring")).expect("linked");
    assert_eq!(steps("ring/f"), ["ring"]);
}

#[test]
fn reading_a_file_is_no_change() {
    use notify::event::{DataChange, ModifyKind};
    assert!(!changes(EventKind::Access(AccessKind::Open(AccessMode::Read))));
    assert!(!changes(EventKind::Access(AccessKind::Close(AccessMode::Read))));
    assert!(changes(EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(changes(EventKind::Modify(ModifyKind::Data(DataChange::Any))));
}

#[test]
fn a_file_beside_it_is_no_concern() {
    let steps = HashSet::from([PathBuf::from("/etc/x/c.yaml"), PathBuf::from("/etc/x")]);
    let created = |path: &str| {
        let event = notify::Event::new(EventKind::Create(notify::event::CreateKind::File));
        concerns(&Ok(event.add_path(PathBuf::from(path))), &steps)
    };
    assert!(created("/etc/x/c.yaml") && created("/etc/x"));
    assert!(!created("/etc/x/access.log") && !created("/etc/x/.c.yaml.swp"));
    assert!(concerns(&Err(notify::Error::generic("overflow")), &steps));
}

#[tokio::test(start_paused = true)]
async fn without_a_watch_files_are_still_looked_at() {
    let mut watch = watch(&[Path::new("/proc/nonexistent/folder/c.yaml")]);
    let begun = Instant::now();
    watch.changed().await;
    watch.changed().await;
    assert_eq!(begun.elapsed(), POLL * 2);
}

#[tokio::test(start_paused = true)]
async fn without_files_there_is_nothing_to_wait_for() {
    let mut watch = watch(&[]);
    assert!(timeout(POLL * 3, watch.changed()).await.is_err());
}
