//! An instance and its webhook change together, wherever the process ends.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use url::Url;

use super::fixture::{TestNode, config, eventually, open_store, url};
use crate::accounts::ChangeStep;
use crate::app::handles::Handles;
use crate::webhook::{EndpointConfig, EndpointScope};
use relevo_domain::InstanceId;
use relevo_store::{self as store, Key, Space, Store, Tx};

/// The changes of an account.
const CHANGES: [Change; 5] =
    [Change::Create, Change::SetWebhook, Change::ReplaceWebhook, Change::RemoveWebhook, Change::Delete];

/// The steps after which the process is killed; `None` is the reply.
const KILLS: [Option<ChangeStep>; 5] = [
    Some(ChangeStep::Decided),
    Some(ChangeStep::Committed),
    Some(ChangeStep::InstanceFollows),
    Some(ChangeStep::WebhookFollows),
    None,
];

/// A file in the working directory of the killed process: the change and the kill, as their positions in the lists above.
const TASK: &str = "task";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    SetWebhook,
    ReplaceWebhook,
    RemoveWebhook,
    Delete,
}

/// What is there of an account: the name of the instance and the URL of its webhook.
type AccountState = Option<(Option<String>, Option<Url>)>;

impl Change {
    fn before(self) -> AccountState {
        match self {
            Change::Create => None,
            Change::SetWebhook => Some((None, None)),
            Change::ReplaceWebhook | Change::RemoveWebhook | Change::Delete => Some((None, Some(url("old")))),
        }
    }

    fn after(self) -> AccountState {
        match self {
            Change::Create | Change::SetWebhook | Change::ReplaceWebhook => {
                Some((Some("New".to_owned()), Some(url("new"))))
            }
            Change::RemoveWebhook => Some((Some("New".to_owned()), None)),
            Change::Delete => None,
        }
    }

    async fn prepare(self, Handles { accounts, .. }: &Handles) {
        if let Some((_, webhook_url)) = self.before() {
            accounts.create(config(&shop()), webhook_url).await.unwrap();
        }
        accounts.create(config(&other()), Some(url("other"))).await.unwrap();
        if self == Change::Delete {
            for instance in [Some(shop()), Some(other()), None] {
                let second = EndpointConfig::for_all_events(url("second"));
                accounts.create_endpoint(instance, second).await.unwrap();
            }
        }
    }

    async fn run(self, Handles { accounts, .. }: &Handles) {
        let Some((name, webhook_url)) = self.after() else { return accounts.delete(shop()).await.unwrap() };
        if self == Change::Create {
            let mut config = config(&shop());
            config.name = name;
            accounts.create(config, webhook_url).await.unwrap();
        } else {
            let rename = move |mut config: relevo_domain::InstanceConfig| {
                config.name = name;
                Ok(config)
            };
            accounts.update(shop(), rename, Some(webhook_url)).await.unwrap();
        }
    }
}

fn shop() -> InstanceId {
    "shop".parse().unwrap()
}

fn other() -> InstanceId {
    "other".parse().unwrap()
}

fn state_of(handles: &Handles, id: &InstanceId) -> AccountState {
    let account = handles.accounts.get(id).ok()?;
    Some((account.instance.config.name, account.webhook_url))
}

fn count(store: &Store, space: Space) -> usize {
    store.range(&Key::new(space), &Key::new(space).after_prefix()).count()
}

/// Every stored endpoint is published, and the instances of all endpoints exist.
fn assert_no_orphans(node: &TestNode, what: &str) {
    let endpoints = node.handles.webhooks.list(None);
    assert_eq!(count(&node.store, Space::Endpoint), endpoints.len(), "{what}");
    let names = node.handles.instances.names().borrow().clone();
    for endpoint in endpoints {
        if let EndpointScope::Instance(number) = endpoint.scope {
            assert!(names.iter().any(|(known, _)| *known == number), "{what}: {endpoint:?}");
        }
    }
}

#[tokio::test]
async fn account_changes_as_a_whole_wherever_the_process_is_killed() {
    for (task, change) in CHANGES.into_iter().enumerate() {
        for (at, kill) in KILLS.into_iter().enumerate() {
            let what = format!("{change:?} killed after {kill:?}");
            let folder = tempfile::tempdir().unwrap();
            run_until_killed(folder.path(), task, at);

            let node = TestNode::start(&folder.path().join("data")).await;
            let expected = if kill == Some(ChangeStep::Decided) { change.before() } else { change.after() };
            assert_eq!(state_of(&node.handles, &shop()), expected, "{what}");
            assert_eq!(state_of(&node.handles, &other()), Some((None, Some(url("other")))), "{what}");
            assert_no_orphans(&node, &what);
            if change == Change::Delete && expected.is_none() {
                // Three endpoints are left: two of the other instance, one of all instances.
                assert_eq!(count(&node.store, Space::Endpoint), 3, "{what}");
                eventually("the record of the deleted instance is deleted", || {
                    count(&node.store, Space::Instance) == 1
                })
                .await;
            }
            node.stop().await;
        }
    }
}

/// Runs a change in a process of its own, which kills itself.
fn run_until_killed(folder: &Path, task: usize, kill: usize) {
    fs::write(folder.join(TASK), format!("{task} {kill}")).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "app::tests::accounts::change_until_killed", "--ignored"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert_eq!(child.status.code(), None, "the process was not killed: {child:?}");
}

#[tokio::test]
#[ignore = "the process that another test starts and that kills itself"]
async fn change_until_killed() {
    let task = fs::read_to_string(TASK).expect("a file that says what to do, in the working directory");
    let mut numbers = task.split(' ').map(|number| number.parse::<usize>().unwrap());
    let (change, kill) = (CHANGES[numbers.next().unwrap()], KILLS[numbers.next().unwrap()]);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let after_step = Arc::new(move |step: ChangeStep| {
        if is_armed.load(Ordering::Relaxed) && kill == Some(step) {
            std::process::abort();
        }
    });
    let node = TestNode::start_with(Path::new("data"), after_step).await;
    change.prepare(&node.handles).await;
    armed.store(true, Ordering::Relaxed);
    change.run(&node.handles).await;
    assert_eq!(kill, None, "the step was not reached");
    std::process::abort();
}

#[tokio::test]
async fn caller_that_stops_waiting_interrupts_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let (decided_tx, mut decided_rx) = mpsc::unbounded_channel();
    let after_step = Arc::new(move |step: ChangeStep| {
        let _ = decided_tx.send(step);
    });
    let node = TestNode::start_with(folder.path(), after_step).await;
    tokio::select! {
        // Both can be ready at once: the change goes on while this task waits for the processor.
        biased;
        step = decided_rx.recv() => assert_eq!(step, Some(ChangeStep::Decided)),
        created = node.handles.accounts.create(config(&shop()), Some(url("new"))) => panic!("{created:?}"),
    }
    eventually("the account is there", || state_of(&node.handles, &shop()) == Some((None, Some(url("new")))))
        .await;
    node.stop().await;
}

/// A folder with the instances `shop`, which has a webhook, and `other`, which has none.
async fn folder_with_two_instances() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path()).await;
    node.handles.accounts.create(config(&shop()), Some(url("shop"))).await.unwrap();
    node.handles.accounts.create(config(&other()), None).await.unwrap();
    node.stop().await;
    folder
}

/// Changes the stored records of all instances.
async fn rewrite_instances(folder: &TempDir, change: impl Fn(&mut Value) + Send + 'static) {
    // A node would replace the records meanwhile.
    let (folder, store, closing) = open_store(folder.path());
    let write = move |tx: &mut Tx| {
        let all = Key::new(Space::Instance);
        let entries: Vec<_> = tx.range(&all, &all.clone().after_prefix()).collect::<Result<_, _>>()?;
        for (key, _) in entries {
            let key = Key::from(key);
            let mut record: Value = store::decode(&tx.get(&key)?.unwrap())?;
            change(&mut record);
            tx.put(key, store::encode(&record)?)?;
        }
        Ok(())
    };
    store.write(write).await.unwrap();
    drop(store);
    closing.wait().await;
    drop(folder);
}

#[tokio::test]
async fn record_of_an_earlier_binary_with_a_webhook_url_opens() {
    let folder = folder_with_two_instances().await;
    rewrite_instances(&folder, |record| record["config"]["webhook_url"] = json!(url("stale"))).await;
    let node = TestNode::start(folder.path()).await;
    assert_eq!(state_of(&node.handles, &shop()), Some((None, Some(url("shop")))));
    assert_eq!(state_of(&node.handles, &other()), Some((None, None)), "its webhook was deleted");
    assert_no_orphans(&node, "records with webhook_url");
    node.stop().await;
}

#[tokio::test]
async fn endpoints_that_an_interrupted_deletion_left_are_deleted_at_the_start() {
    let folder = folder_with_two_instances().await;
    rewrite_instances(&folder, |record| {
        if record["config"]["id"] == "shop" {
            record["wanted"] = json!("deleted");
        }
    })
    .await;
    let node = TestNode::start(folder.path()).await;
    assert_eq!((state_of(&node.handles, &shop()), count(&node.store, Space::Endpoint)), (None, 0));
    eventually("the cursor and the record are deleted", || {
        count(&node.store, Space::EndpointCursor) == 0 && count(&node.store, Space::Instance) == 1
    })
    .await;
    assert_eq!(state_of(&node.handles, &other()), Some((None, None)));
    node.stop().await;
}
