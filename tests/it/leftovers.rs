//! The check at the end of each test: what a node leaves behind fails the test.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::World;

/// The message with which the end of the world fails.
fn failure_of(world: World) -> String {
    let failure = catch_unwind(AssertUnwindSafe(|| drop(world))).expect_err("the leftover is not found");
    *failure.downcast::<String>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn running_task_and_open_file_fail_a_test() {
    let world = World::new().await;
    let file = world.settings.data_dir.join("VERSION");
    let _open = fs::File::open(&file).unwrap();
    drop(world.node.runtime().spawn(std::future::pending::<()>()));
    let failure = failure_of(world);
    assert!(failure.contains("running tasks: 1"), "{failure}");
    assert!(failure.contains(&format!("open {}", file.display())), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unfinished_files_and_folders_without_a_job_fail_a_test() {
    let world = World::new().await;
    let data = world.settings.data_dir.clone();
    let (draft, partial) = (data.join("blobs/.draft-9"), data.join("inbound-media/drafts/9"));
    fs::write(&draft, "").unwrap();
    fs::write(&partial, "").unwrap();
    fs::create_dir(data.join("jobs/00000000-0000-0000-0000-000000000001")).unwrap();
    let failure = failure_of(world);
    for path in [draft, partial] {
        assert!(failure.contains(&format!("unfinished {}", path.display())), "{failure}");
    }
    assert!(failure.contains("job folders: 1 of 0 jobs"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leftover_of_a_restarted_node_fails_a_test() {
    let mut world = World::new().await;
    fs::write(world.settings.data_dir.join("inbound-media/drafts/9"), "").unwrap();
    let stopped = tokio::spawn(async move { world.stop_node().await }).await;
    let failure = stopped.unwrap_err().into_panic().downcast::<String>().unwrap();
    assert!(failure.contains("unfinished"), "{failure}");
}
