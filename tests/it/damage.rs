//! A damaged data folder: the start is refused, and damage that a later read meets is an error of that read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use relevo::app::Node;
use relevo_clock::{Clock, Random};
use serde_json::json;

use crate::support::World;

async fn send(world: &World, count: u32) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let body = json!({ "phone": format!("57300{n:07}"), "message": "Hola" });
        ids.push(world.queue("/messages/text", body).await.id());
    }
    for id in &ids {
        world.until_status(id, &["read"]).await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn incomplete_database_is_refused_until_its_loss_is_accepted() {
    let mut world = World::new().await;
    send(&world, 3).await;
    world.stop_node().await;
    fs::remove_dir_all(world.settings.data_dir.join("db")).unwrap();
    let refused =
        Box::pin(Node::start(world.settings.clone(), Clock::system(), Random::system())).await.err().unwrap();
    assert_eq!(refused.exit_code(), 65);
    let text = refused.to_string();
    for part in
        ["is not complete: its file is missing", "statuses of messages: 3", "--accept-loss", "docs/damage.md"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!world.settings.data_dir.join("db").exists());

    world.settings.store.accept_loss = true;
    world.start_node().await;
    assert_eq!(world.get("/health").await.status, 200);
    world.create("shop").await;
    send(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn damage_that_a_read_meets_is_a_500_and_an_error_in_the_health() {
    let mut world = World::new().await;
    let ids = send(&world, 150).await;
    world.restart_node().await;
    world.until_state("shop", "connected").await;
    let log = File::options().write(true).open(world.settings.data_dir.join("db/db")).unwrap();
    for at in (512..log.metadata().unwrap().len()).step_by(64) {
        log.write_all_at(&[0xaa], at).unwrap();
    }
    let mut failed = 0;
    for id in &ids {
        let answer = world.get(&format!("/instances/shop/messages/{id}")).await;
        assert!([200, 500].contains(&answer.status.as_u16()), "{answer:?}");
        failed += u32::from(answer.status == 500);
    }
    assert!(failed > 0);
    let health = world.get("/health").await;
    assert_eq!(
        (health.status.as_u16(), &health.body["store"]["status"]),
        (503, &json!("error")),
        "{health:?}"
    );
    assert!(world.get("/metrics").await.body.as_str().unwrap().contains("relevo_store_damaged 1"));
}
