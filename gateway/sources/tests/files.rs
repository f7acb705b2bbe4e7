//! The file source on real folders: what is read, what is told, and what bad input leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use sluice_resources::{Change, Object};
use sluice_sources::SourceUpdate;
use sluice_sources::files::{FileSource, MAX_FILE_BYTES, Watch};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\nspec:\n  ports:\n  - port: {port}\n"
    )
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Service, "shop", name)
}

/// A folder and a source that reads it.
struct Fixture {
    dir: TempDir,
    source: FileSource,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let source = FileSource::open(vec![dir.path().to_owned()]);
        Fixture { dir, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&mut self) -> SourceUpdate {
        self.source.read()
    }
}

fn upserts(update: &SourceUpdate) -> Vec<ObjectRef> {
    let objects = update.changes.iter().filter_map(|change| match change {
        Change::Upsert(object) => Some(Object::reference(object)),
        _ => None,
    });
    objects.collect()
}

fn deletes(update: &SourceUpdate) -> Vec<ObjectRef> {
    let gone = update.changes.iter().filter_map(|change| match change {
        Change::Delete(reference) => Some(reference.clone()),
        _ => None,
    });
    gone.collect()
}

fn unreadable(update: &SourceUpdate) -> Vec<ObjectRef> {
    let told = update.changes.iter().filter_map(|change| match change {
        Change::Unreadable(unreadable) => Some(unreadable.reference.clone()),
        _ => None,
    });
    told.collect()
}

fn codes(problems: &[Problem]) -> Vec<Code> {
    problems.iter().map(|p| p.code).collect()
}

#[test]
fn all_documents_of_all_files_are_read_and_later_only_what_changed() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.write("deep/er/c.yml", &service("c", 80));
    f.write("notes.txt", "not: configuration");
    f.write(".hidden.yaml", &service("hidden", 80));
    let first = f.read();
    assert_eq!(upserts(&first), [reference("a"), reference("b"), reference("c")]);
    assert!(first.problems.is_empty(), "{:?}", first.problems);

    assert!(f.read().changes.is_empty());
    f.write("a.yaml", &format!("# another layout\n\n{}---\n{}", service("a", 80), service("b", 81)));
    let second = f.read();
    assert_eq!(upserts(&second), [reference("b")]);
    assert!(deletes(&second).is_empty());
}

#[test]
fn a_list_and_json_are_read_like_documents() {
    let mut f = Fixture::new();
    f.write(
        "list.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: other}\n",
    );
    f.write("one.json", "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"third\"}}");
    let namespace = |name: &str| ObjectRef::new(Kind::Namespace, "", name);
    assert_eq!(upserts(&f.read()), [namespace("shop"), namespace("other"), namespace("third")]);
    assert_eq!(f.source.locate(&namespace("other"), "metadata.name").unwrap().line, 9);
}

#[test]
fn deleting_a_file_or_a_document_deletes_its_objects() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.write("c.yaml", &service("c", 80));
    f.read();
    f.write("a.yaml", &service("a", 80));
    fs::remove_file(f.path("c.yaml")).unwrap();
    assert_eq!(deletes(&f.read()), [reference("b"), reference("c")]);
}

#[test]
fn an_object_that_moves_to_another_file_is_no_change() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    f.read();
    fs::rename(f.path("a.yaml"), f.path("z.yaml")).unwrap();
    assert!(f.read().changes.is_empty());
}

#[test]
fn a_half_written_file_keeps_its_former_objects() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.write("c.yaml", &service("c", 80));
    f.read();
    f.write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a, names");
    f.write("c.yaml", &service("c", 81));
    let update = f.read();
    assert_eq!(upserts(&update), [reference("c")], "the other file goes on");
    assert!(deletes(&update).is_empty());
    assert_eq!(codes(&update.problems), [Code::YamlSyntax]);
    let location = update.problems[0].location.clone().unwrap();
    assert!(location.file.ends_with("a.yaml") && location.line == 3, "{location}");

    // The problem stays for as long as the file does, and goes with it.
    assert_eq!(codes(&f.read().problems), [Code::YamlSyntax]);
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    let repaired = f.read();
    assert!(repaired.changes.is_empty() && repaired.problems.is_empty(), "{repaired:?}");
}

#[test]
fn a_file_that_becomes_empty_keeps_its_former_objects() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    f.write("b.yaml", &service("b", 80));
    f.read();
    f.write("a.yaml", "");
    let update = f.read();
    assert!(update.changes.is_empty());
    assert_eq!(codes(&update.problems), [Code::YamlSyntax]);
}

#[test]
fn a_document_that_does_not_say_what_it_is_takes_no_object_away() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.read();
    for broken in ["- just\n- a list\n".to_owned(), format!("apiVersion: v1\nkind: Service\n---\n{}", service("b", 80))]
    {
        f.write("a.yaml", &broken);
        let update = f.read();
        assert!(update.changes.is_empty(), "{broken}: {:?}", update.changes);
        assert_eq!(codes(&update.problems), [Code::NotAnObject]);
    }
    f.write("a.yaml", &service("b", 80));
    assert_eq!(deletes(&f.read()), [reference("a")]);
}

#[test]
fn an_object_of_the_wrong_shape_keeps_what_it_said_before() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.read();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80).replace("port: 80", "port: many"), service("b", 81)));
    let update = f.read();
    assert_eq!(update.problems.len(), 1);
    assert_eq!(update.problems[0].code, Code::WrongType);
    assert_eq!(update.problems[0].location.as_ref().unwrap().line, 8);
    assert!(deletes(&update).is_empty());
    let ports = update.changes.iter().filter_map(|change| match change {
        Change::Upsert(Object::Service(service)) => service.spec.as_ref()?.ports.as_ref()?.first().map(|p| p.port),
        _ => None,
    });
    assert!(ports.eq([80, 81]) || upserts(&update) == [reference("b")], "a stays as it was: {:?}", update.changes);
    assert_eq!(unreadable(&update), [reference("a")]);
    // It is told until it is mended, or gone.
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80).replace("port: 80", "port: more"), service("b", 81)));
    let update = f.read();
    assert_eq!((unreadable(&update), deletes(&update)), (vec![reference("a")], vec![]));
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 81)));
    let update = f.read();
    assert!(upserts(&update).contains(&reference("a")) && unreadable(&update).is_empty(), "{:?}", update.changes);
}

#[test]
fn what_could_never_be_read_stays_where_its_kind_is_mistyped_besides() {
    let mut f = Fixture::new();
    let broken = service("a", 80).replace("port: 80", "port: many");
    f.write("a.yaml", &broken);
    assert_eq!(unreadable(&f.read()), [reference("a")]);
    f.write("a.yaml", &broken.replace("kind: Service", "kind: Servise"));
    let update = f.read();
    assert_eq!((deletes(&update), codes(&update.problems)), (vec![], vec![Code::UnknownKind]));
}

#[test]
fn of_two_with_one_name_the_one_that_can_be_read_is_used() {
    let mut f = Fixture::new();
    let broken = service("a", 80).replace("port: 80", "port: many");
    f.write("a.yaml", &broken);
    f.write("b.yaml", &service("a", 81));
    let update = f.read();
    assert_eq!((upserts(&update), unreadable(&update)), (vec![reference("a")], vec![]));
    assert_eq!(codes(&update.problems), [Code::WrongType, Code::DuplicateObject]);
    assert!(update.problems[1].location.as_ref().unwrap().file.ends_with("a.yaml"), "{:?}", update.problems);
    fs::remove_file(f.path("b.yaml")).unwrap();
    let update = f.read();
    assert_eq!((unreadable(&update), deletes(&update)), (vec![reference("a")], vec![]));
}

#[test]
fn an_object_that_could_never_be_read_is_told_and_then_gone_with_its_file() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80).replace("port: 80", "port: many"));
    f.write("b.yaml", &service("b", 80));
    let update = f.read();
    assert_eq!((upserts(&update), unreadable(&update)), (vec![reference("b")], vec![reference("a")]));
    assert!(f.read().changes.is_empty(), "once");
    fs::remove_file(f.path("a.yaml")).unwrap();
    assert_eq!(deletes(&f.read()), [reference("a")]);
}

#[test]
fn a_folder_that_vanishes_or_is_emptied_takes_nothing_with_it() {
    let mut f = Fixture::new();
    f.write("conf/a.yaml", &service("a", 80));
    f.source = FileSource::open(vec![f.path("conf")]);
    assert_eq!(f.read().changes.len(), 1);

    fs::rename(f.path("conf"), f.path("elsewhere")).unwrap();
    let vanished = f.read();
    assert!(vanished.changes.is_empty());
    assert_eq!(codes(&vanished.problems), [Code::FileUnreadable]);

    fs::create_dir(f.path("conf")).unwrap();
    let emptied = f.read();
    assert!(emptied.changes.is_empty());
    assert_eq!(codes(&emptied.problems), [Code::FileUnreadable]);

    f.write("conf/b.yaml", &service("b", 80));
    let back = f.read();
    assert_eq!(upserts(&back), [reference("b")]);
    assert_eq!(deletes(&back), [reference("a")]);
    assert!(back.problems.is_empty());
}

#[test]
fn of_an_object_that_stands_twice_the_first_is_used() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    f.write("b.yaml", &service("a", 81));
    let update = f.read();
    assert_eq!(update.changes.len(), 1);
    assert_eq!(codes(&update.problems), [Code::DuplicateObject]);
    assert!(update.problems[0].location.as_ref().unwrap().file.ends_with("b.yaml"));
    assert!(update.problems[0].message.contains("a.yaml:1"), "{}", update.problems[0].message);
}

#[test]
fn a_file_above_the_limit_or_without_text_is_a_problem_and_the_rest_is_read() {
    let mut f = Fixture::new();
    fs::write(f.path("big.yaml"), vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    fs::write(f.path("bytes.yaml"), [b'a', b'\n', 0xff]).unwrap();
    f.write("ok.yaml", &service("ok", 80));
    let update = f.read();
    assert_eq!(upserts(&update), [reference("ok")]);
    assert_eq!(codes(&update.problems), [Code::FileTooLarge, Code::YamlSyntax]);
    assert_eq!(update.problems[1].location.as_ref().unwrap().line, 2);
}

/// As kubelet lays out a ConfigMap, and as it replaces one.
#[test]
fn a_mounted_config_map_is_read_through_its_links_and_again_when_they_turn() {
    let mut f = Fixture::new();
    f.write("..v1/a.yaml", &service("a", 80));
    symlink("..v1", f.path("..data")).unwrap();
    symlink("..data/a.yaml", f.path("a.yaml")).unwrap();
    assert_eq!(upserts(&f.read()), [reference("a")]);

    f.write("..v2/a.yaml", &service("a", 81));
    symlink("..v2", f.path("..data_tmp")).unwrap();
    fs::rename(f.path("..data_tmp"), f.path("..data")).unwrap();
    fs::remove_dir_all(f.path("..v1")).unwrap();
    let update = f.read();
    assert_eq!(upserts(&update), [reference("a")]);
    assert!(update.problems.is_empty());
}

#[test]
fn a_link_that_leads_in_a_circle_is_followed_once() {
    let mut f = Fixture::new();
    f.write("sub/a.yaml", &service("a", 80));
    symlink("..", f.path("sub/up")).unwrap();
    assert_eq!(upserts(&f.read()), [reference("a")]);
}

#[test]
fn a_field_is_located_by_its_line_and_by_its_objects_line_once_the_file_has_moved_on() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.read();
    assert_eq!(f.source.locate(&reference("b"), "spec.ports[0].port").unwrap().line, 17);
    f.write("a.yaml", "something: else\n");
    assert_eq!(f.source.locate(&reference("b"), "spec.ports[0].port").unwrap().line, 10);
    assert_eq!(f.source.locate(&reference("nowhere"), ""), None);
}

fn plugin(path: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: auth, namespace: shop}}\nspec:\n  source:\n    file: {{path: {path}}}\n"
    )
}

fn files(update: &SourceUpdate) -> Vec<(String, bool)> {
    let files = update.changes.iter().filter_map(|change| match change {
        Change::File { path, sha256 } => Some((path.to_string(), sha256.is_some())),
        _ => None,
    });
    files.collect()
}

#[test]
fn a_plugins_module_is_told_by_its_fingerprint_and_stays_while_a_build_replaces_it() {
    let mut f = Fixture::new();
    f.write("conf/plugin.yaml", &plugin("../modules/auth.wasm"));
    f.source = FileSource::open(vec![f.path("conf")]);
    let module = f.path("conf/../modules/auth.wasm").to_str().unwrap().to_owned();
    let first = f.read();
    assert_eq!(files(&first), [(module.clone(), false)]);
    assert!(f.source.folders().contains(Path::new(&module).parent().unwrap()));

    f.write("modules/auth.wasm", "one");
    assert_eq!(files(&f.read()), [(module.clone(), true)]);
    assert!(files(&f.read()).is_empty());
    f.write("modules/auth.wasm", "two");
    assert_eq!(files(&f.read()), [(module.clone(), true)]);

    fs::remove_file(f.path("modules/auth.wasm")).unwrap();
    let gone = f.read();
    assert!(gone.changes.is_empty());
    assert_eq!(codes(&gone.problems), [Code::PluginSource], "{:?}", gone.problems);
    assert!(gone.problems[0].location.is_some());
}

#[test]
fn an_object_whose_kind_is_mistyped_goes_on_serving() {
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    f.read();
    f.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80).replace("kind: Service", "kind: Servise"), service("b", 80)),
    );
    let typo = f.read();
    assert!(typo.changes.is_empty(), "{:?}", typo.changes);
    assert_eq!(codes(&typo.problems), [Code::UnknownKind]);
    assert_eq!(typo.problems[0].severity, Severity::Error);
    assert!(typo.problems[0].hint.contains("Service shop/a"), "{}", typo.problems[0].hint);
    // What was never read is none of our business.
    f.write("b.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n");
    assert_eq!(f.read().problems.iter().filter(|p| p.severity == Severity::Error).count(), 1);
    // Taken out for good, it goes.
    f.write("a.yaml", &service("b", 80));
    assert_eq!(deletes(&f.read()), [reference("a")]);
}

#[test]
fn a_forced_reading_looks_behind_the_stamps() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    // The name of this thread: a file whose times stand still, whatever is written over it.
    let name = Path::new("/proc/thread-self/comm");
    let write = |text: &str| fs::OpenOptions::new().write(true).open(name).unwrap().write_all(text.as_bytes()).unwrap();
    write("a: [b");
    symlink(name, f.path("b.yaml")).unwrap();
    // A stamp is trusted once it is older than a tick of the kernel's.
    while fs::metadata(name).unwrap().modified().unwrap().elapsed().unwrap() < Duration::from_millis(200) {
        std::thread::sleep(Duration::from_millis(10));
    }
    f.read();
    write("a: 1");
    assert_eq!(codes(&f.read().problems), [Code::YamlSyntax], "the stamp is the same");
    let update = f.source.reread(&HashSet::new());
    assert_eq!(codes(&update.problems), [Code::NotAnObject]);
    assert!(update.changes.is_empty(), "the other file's content is the same");
}

/// Waits until the watch tells of a change, and reads.
async fn next(watch: &mut Watch, source: &mut FileSource) -> SourceUpdate {
    let deadline = Duration::from_secs(20);
    tokio::time::timeout(deadline, async {
        loop {
            watch.changed().await;
            let update = source.read_but(&watch.being_written());
            watch.follow(source.folders());
            if !update.changes.is_empty() || !update.problems.is_empty() {
                return update;
            }
        }
    })
    .await
    .expect("the change is seen")
}

/// Polling is off in effect: what is seen here is seen by inotify.
fn watching(f: &mut Fixture) -> Watch {
    let (mut watch, error) = Watch::start(Duration::from_secs(3600));
    assert!(error.is_none(), "{error:?}");
    f.read();
    watch.follow(f.source.folders());
    watch
}

#[tokio::test]
async fn the_watch_sees_files_written_renamed_and_removed_and_new_folders() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    let mut watch = watching(&mut f);

    f.write("a.yaml", &service("a", 81));
    assert_eq!(upserts(&next(&mut watch, &mut f.source).await), [reference("a")]);
    // As most editors save.
    f.write(".a.yaml.swp", &service("a", 82));
    fs::rename(f.path(".a.yaml.swp"), f.path("a.yaml")).unwrap();
    assert_eq!(upserts(&next(&mut watch, &mut f.source).await), [reference("a")]);
    f.write("new/b.yaml", &service("b", 80));
    assert_eq!(upserts(&next(&mut watch, &mut f.source).await), [reference("b")]);
    f.write("new/b.yaml", &service("b", 81));
    assert_eq!(upserts(&next(&mut watch, &mut f.source).await), [reference("b")]);
    fs::remove_file(f.path("a.yaml")).unwrap();
    assert_eq!(deletes(&next(&mut watch, &mut f.source).await), [reference("a")]);
}

#[tokio::test]
async fn the_watch_waits_for_a_writer_to_close_its_file() {
    use std::io::Write;
    let mut f = Fixture::new();
    f.write("a.yaml", &format!("{}---\n{}", service("a", 80), service("b", 80)));
    let mut watch = watching(&mut f);

    // Cut after the first document, the text is valid YAML: read now, it would delete b.
    let mut file = fs::File::create(f.path("a.yaml")).unwrap();
    file.write_all(service("a", 81).as_bytes()).unwrap();
    // Others are read meanwhile, and a forced reading leaves it alone as well.
    f.write("other.yaml", &service("other", 80));
    assert_eq!(upserts(&next(&mut watch, &mut f.source).await), [reference("other")]);
    let being_written = watch.being_written();
    assert_eq!(being_written.len(), 1, "{being_written:?}");
    assert!(f.source.reread(&being_written).changes.is_empty());

    file.write_all(format!("---\n{}", service("b", 81)).as_bytes()).unwrap();
    drop(file);
    let update = next(&mut watch, &mut f.source).await;
    assert_eq!(upserts(&update), [reference("a"), reference("b")]);
    assert!(deletes(&update).is_empty());
}

#[tokio::test]
async fn without_inotify_the_poll_sees_the_change() {
    let mut f = Fixture::new();
    f.write("a.yaml", &service("a", 80));
    f.read();
    let (mut watch, _) = Watch::start(Duration::from_millis(20));
    watch.follow(&BTreeSet::new());
    f.write("a.yaml", &service("a", 81));
    let before = Instant::now();
    assert!(watch.changed().await >= before);
    assert_eq!(upserts(&f.read()), [reference("a")]);
}

/// A folder on a network tells nothing: kubelet's way to replace a ConfigMap has to be seen by looking.
#[tokio::test]
async fn a_mounted_config_map_that_turns_is_seen_by_the_poll_alone() {
    let mut f = Fixture::new();
    f.write("..v1/a.yaml", &service("a", 80));
    symlink("..v1", f.path("..data")).unwrap();
    symlink("..data/a.yaml", f.path("a.yaml")).unwrap();
    f.read();
    let (mut watch, _) = Watch::start(Duration::from_millis(20));
    watch.follow(&BTreeSet::new());
    // As long as the one before, and with its times.
    let times = fs::metadata(f.path("..v1/a.yaml")).unwrap().modified().unwrap();
    f.write("..v2/a.yaml", &service("a", 81));
    fs::File::options().write(true).open(f.path("..v2/a.yaml")).unwrap().set_modified(times).unwrap();
    symlink("..v2", f.path("..data_tmp")).unwrap();
    fs::rename(f.path("..data_tmp"), f.path("..data")).unwrap();
    fs::remove_dir_all(f.path("..v1")).unwrap();
    watch.changed().await;
    assert_eq!(upserts(&f.read()), [reference("a")]);
}
