//! Tasks: the status of queued messages.

use serde_json::{Value, json};

use super::{PHONE, assert_fits, data, fits, singles, until_task, with};
use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_route_returns_a_task_when_queued() {
    let world = World::new().await;
    for (n, (route, request, _, queued, _)) in singles().into_iter().enumerate() {
        let flag = [json!(true), json!("true"), json!(1)][n % 3].clone();
        let answer = world.post(&format!("/api/{route}"), with(request, &json!({ "use_queue": flag }))).await;
        assert_fits(&answer, 200, &json!({ "success": true, "message": queued, "task_id": "<uuid>" }));
        let task = answer.body["task_id"].as_str().unwrap();
        let done = until_task(&world, task, "SUCCESS").await;
        let expected = json!({
            "task_id": task,
            "status": "SUCCESS",
            "result": { "success": true, "data": data(PHONE),
                "total": 1, "successful": 1, "sent": 1, "failed": 0, "errors": [] },
            "created_at": "<time>",
            "completed_at": "<time>",
        });
        assert!(fits(&expected, &done), "{done}");
        let alias = world.get(&format!("/api/messages/task-status/{task}")).await;
        assert_eq!((alias.status.as_u16(), &alias.body["result"]), (200, &done["result"]));
    }
    for flag in [json!(false), json!("false"), json!(0), json!(null)] {
        let body = json!({ "phone": PHONE, "message": "x", "use_queue": flag });
        assert!(world.post("/api/send-message", body).await.body["data"].is_object());
    }
    for unknown in ["12345678-1234-1234-1234-123456789abc", "019ab2f0-5f6b-8000-8000-0040000a1b2c", "x"] {
        let answer = world.get(&format!("/api/task-status/{unknown}")).await;
        assert_fits(&answer, 404, &json!({ "error": "Tarea no encontrada" }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failed_task_shows_its_error() {
    let mut world = World::with(|settings| settings.retry.transactional.max_attempts = 2).await;
    let fault =
        |to: &str, code: u32| json!({ "match": { "to": to }, "action": { "error": { "code": code } } });
    world.faults(json!([fault("573000000001", 131_026), fault("573000000002", 131_016)])).await;
    let mut tasks = Vec::new();
    for (to, code) in [("573000000001", 131_026), ("573000000002", 131_016)] {
        let body = json!({ "phone": to, "message": "x", "use_queue": true });
        let queued = world.post("/api/send-message", body).await;
        tasks.push((to, code, queued.body["task_id"].as_str().unwrap().to_owned()));
    }
    let mut ended = Vec::new();
    for (to, code, task) in &tasks {
        let failed = until_task(&world, task, "FAILURE").await;
        let result = &failed["result"];
        assert_eq!(
            (&result["success"], &result["total"], &result["failed"]),
            (&json!(false), &json!(1), &json!(1))
        );
        assert_eq!((&result["successful"], &result["sent"]), (&json!(0), &json!(0)));
        let graph: Value = serde_json::from_str(result["error"].as_str().unwrap()).unwrap();
        assert_eq!(graph["error"]["code"], *code);
        let text = result["errors"][0].as_str().unwrap();
        assert!(
            text.starts_with(&format!("Error para {to}: ")) && text.contains(&code.to_string()),
            "{text}"
        );
        assert!(failed["completed_at"].is_string() && failed["created_at"].is_string(), "{failed}");
        ended.push(failed);
    }
    world.restart_node().await;
    for ((_, _, task), before) in tasks.iter().zip(ended) {
        assert_eq!(world.get(&format!("/api/task-status/{task}")).await.body, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn task_survives_a_restart() {
    let mut world = World::new().await;
    world.post("/instances/shop/disconnect", json!({})).await;
    let body = json!({ "phone": PHONE, "message": "x", "use_queue": true });
    let queued = world.post("/api/send-message", body).await;
    let task = queued.body["task_id"].as_str().unwrap().to_owned();
    world.restart_node().await;
    let waiting = world.get(&format!("/api/task-status/{task}")).await;
    let expected = json!({ "task_id": task, "status": "PENDING", "result": null, "created_at": "<time>",
        "error": "the instance shop is disconnected (requested): asked to disconnect", "completed_at": null });
    assert_fits(&waiting, 200, &expected);
    world.post("/instances/shop/connect", json!({})).await;
    until_task(&world, &task, "SUCCESS").await;
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn task_between_attempts_shows_retry() {
    let world = World::with(|settings| {
        settings.retry.transactional.first_delay = std::time::Duration::from_secs(600);
        settings.retry.transactional.max_delay = std::time::Duration::from_secs(600);
    })
    .await;
    world.faults(json!([{ "match": { "to": PHONE }, "action": { "error": { "code": 131_016 } } }])).await;
    let body = json!({ "phone": PHONE, "message": "x", "use_queue": true });
    let queued = world.post("/api/send-message", body).await;
    let task = until_task(&world, queued.body["task_id"].as_str().unwrap(), "RETRY").await;
    assert_eq!((&task["result"], &task["completed_at"]), (&Value::Null, &Value::Null));
}
