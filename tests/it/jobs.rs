//! Bulk jobs from files: upload, progress over HTTP and WebSocket, commands, results.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::cloud_webhook::{deliver, status, webhook};
use crate::support::{APP_SECRET, Answer, KEY, World, eventually};

const TEMPLATE: &str = "Hola @valor1, tu pedido @valor2";

/// Longest wait for a frame.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Uploads a file with form fields. The field `message` defaults to `TEMPLATE`.
async fn upload(world: &World, file: impl Into<Vec<u8>>, fields: &[(&'static str, &str)]) -> Answer {
    upload_to(world, "/messages/send-bulk-file", file, fields, None).await
}

async fn upload_to(
    world: &World,
    path: &str,
    file: impl Into<Vec<u8>>,
    fields: &[(&'static str, &str)],
    key: Option<&str>,
) -> Answer {
    let part = Part::bytes(file.into()).file_name("clientes.csv").mime_str("text/csv").unwrap();
    let mut form = Form::new().part("file", part);
    if !fields.iter().any(|(name, _)| *name == "message") {
        form = form.text("message", TEMPLATE);
    }
    for (name, text) in fields {
        form = form.text(*name, (*text).to_owned());
    }
    let mut request = world.request(Method::POST, path).multipart(form);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    Answer::of(request).await
}

fn rows(count: usize) -> String {
    let rows = (0..count).map(|n| format!("+51{:09}|nombre {n}|{n:05}\n", 100_000_000 + n));
    std::iter::once("phone|@valor1|@valor2\n".to_owned()).chain(rows).collect()
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["job"]["id"].as_str().unwrap().to_owned()
}

/// Waits until the job has the status.
async fn until(world: &World, id: &str, status: &str) -> Value {
    eventually(&format!("the job to be {status}"), async || {
        let answer = world.get(&format!("/jobs/{id}")).await;
        if answer.body["status"] == status { Ok(answer.body) } else { Err(answer) }
    })
    .await
}

/// Texts that each recipient received, in order of arrival.
async fn texts(world: &World) -> HashMap<String, Vec<String>> {
    let mut texts: HashMap<_, Vec<_>> = HashMap::new();
    for message in world.arrived().await.iter().filter(|message| message["outcome"] == "accepted") {
        let to = message["to"].as_str().unwrap().trim_start_matches('+').to_owned();
        texts.entry(to).or_default().push(message["body"]["text"]["body"].as_str().unwrap().to_owned());
    }
    texts
}

type Socket = WebSocketStream<TcpStream>;

async fn socket(world: &World, id: &str) -> Socket {
    // A browser can send the key only in the URL.
    let url = format!("ws://{}/ws/job/{id}?api_key={KEY}", world.node.address);
    let stream = TcpStream::connect(world.node.address).await.unwrap();
    tokio_tungstenite::client_async(url.into_client_request().unwrap(), stream).await.unwrap().0
}

/// The next frame, or the code of the server's close frame.
async fn frame(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match tokio::time::timeout(TIMEOUT, socket.next()).await.expect("a frame in time") {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(Some(close)))) => return Err(close.code.into()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Frames up to and including the first one of type `kind`.
async fn frames_until(socket: &mut Socket, kind: &str) -> Vec<Value> {
    let mut frames = Vec::new();
    loop {
        let next = frame(socket).await.unwrap();
        let found = next["type"] == kind;
        frames.push(next);
        if found {
            return frames;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn documented_example_is_sent_with_its_values() {
    let world = World::new().await;
    let file = "phone|@valor1|@valor2\n+51123123123|leonardo|12345\n+51123123124|maria|12346\n+51123123125|juan\n+51123123126\n";
    let message = "Hola @valor1, tu pedido @valor2 ha sido procesado. Gracias @valor1!";
    let created = upload_to(&world, "/send-bulk-file", file, &[("message", message)], None).await;
    let id = id_of(&created);
    let job = &created.body["job"];
    assert_eq!(created.body["status"], "success");
    assert_eq!(
        created.body["message"],
        "Job creado y en proceso. Procesando 4 mensajes desde archivo 'clientes.csv'."
    );
    assert_eq!((&job["total_numbers"], &job["devices_limit"]), (&json!(4), &json!(5)));
    assert_eq!((&job["message"], &job["results"]), (&json!(message), &json!({})));
    assert_eq!(job["progress"]["total"], 4);

    let done = until(&world, &id, "completed").await;
    assert_eq!((&done["progress"]["sent"], &done["progress"]["failed"]), (&json!(4), &json!(0)));
    assert_eq!(done["progress"]["percentage"], 100.0);
    assert_eq!(done["results"]["sent"], 4);
    let texts = texts(&world).await;
    let got = |phone: &str| texts[phone].clone();
    assert_eq!(got("51123123123"), ["Hola leonardo, tu pedido 12345 ha sido procesado. Gracias leonardo!"]);
    assert_eq!(got("51123123125"), ["Hola juan, tu pedido --- ha sido procesado. Gracias juan!"]);
    assert_eq!(got("51123123126"), ["Hola ---, tu pedido --- ha sido procesado. Gracias ---!"]);

    let listed = world.get("/jobs").await;
    assert_eq!(listed.body.as_array().unwrap().len(), 1);
    assert_eq!(listed.body[0]["id"], json!(id));
    assert_eq!(world.get("/jobs?status=failed").await.body, json!([]));
    assert_eq!(world.get("/jobs/00000000-0000-0000-0000-000000000000").await.status, 404);
    assert_eq!(world.get("/jobs/x").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn results_show_each_row_until_it_is_read() {
    let world = World::new().await;
    let id = id_of(&upload(&world, rows(3), &[]).await);
    let path = format!("/jobs/{id}/results");
    let read = eventually("every row to be read", async || {
        let page = world.get(&path).await;
        let rows = page.body["data"].as_array().unwrap().clone();
        if rows.iter().all(|row| row["status"] == "read") { Ok(rows) } else { Err(page) }
    })
    .await;
    assert_eq!((&read[0]["line"], &read[0]["phone"]), (&json!(2), &json!("+51100000000")));
    assert!(read[0]["provider_id"].as_str().unwrap().starts_with("wamid."));
    assert_eq!((&read[0]["device_id"], &read[0]["instance_id"]), (&json!(1), &json!("shop")));
    let job = until(&world, &id, "completed").await;
    assert_eq!((&job["progress"]["delivered"], &job["progress"]["read"]), (&json!(3), &json!(3)));

    let first = world.get(&format!("{path}?limit=2")).await;
    assert_eq!(first.body["data"].as_array().unwrap().len(), 2);
    let rest = world.get(&format!("{path}?after={}", first.body["next"].as_str().unwrap())).await;
    assert_eq!(rest.body["data"][0]["line"], 4);
    assert!(rest.body.get("next").is_none(), "{rest:?}");

    let file = world.get(&format!("{path}?format=csv")).await;
    assert!(file.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let text = file.body.as_str().unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("line,phone,status,ambiguous,timestamp,provider_id,code,error,instance_id")
    );
    assert!(lines.next().unwrap().starts_with("2,+51100000000,read,false,"), "{text}");
    assert_eq!(lines.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_rows_are_reported_and_other_rows_are_sent() {
    let world = World::new().await;
    let fault = json!({ "match": { "to": "51100000001" }, "action": { "error": { "code": 131_026 } } });
    world.faults(json!([fault])).await;
    let file = format!("{}12|corto|1\n", rows(3));
    let created = upload(&world, file, &[]).await;
    let id = id_of(&created);
    assert_eq!(
        (&created.body["invalid_rows"], &created.body["invalid_sample"][0]["line"]),
        (&json!(1), &json!(5))
    );
    let done = until(&world, &id, "completed").await;
    let progress = &done["progress"];
    assert_eq!(
        (&progress["sent"], &progress["failed"], &progress["invalid"]),
        (&json!(2), &json!(2), &json!(1))
    );
    let errors = world.get(&format!("/jobs/{id}/errors")).await;
    let found = errors.body["data"].as_array().unwrap();
    assert_eq!(found.len(), 2, "{errors:?}");
    let refused = found.iter().find(|error| error["phone"] == "+51100000001").unwrap();
    assert_eq!((&refused["line"], &refused["code"]), (&json!(3), &json!(131_026)));
    let bad = found.iter().find(|error| error["phone"] == "12").unwrap();
    assert_eq!(bad["line"], 5);

    world.control(Method::DELETE, "/_sandbox/faults", None).await;
    let retried = world.post(&format!("/jobs/{id}/retry-failed"), json!({})).await;
    assert_eq!(retried.status, 200, "{retried:?}");
    let done = eventually("the refused row to be sent", async || {
        let job = world.get(&format!("/jobs/{id}")).await.body;
        if job["progress"]["sent"] == 3 && job["status"] == "completed" { Ok(job) } else { Err(job) }
    })
    .await;
    assert_eq!(done["progress"]["failed"], 1);
    assert_eq!(texts(&world).await["51100000001"].len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_upload_is_refused_with_its_reason() {
    let world = World::with(|settings| settings.bulk.max_rows = 3).await;
    let details = |answer: &Answer| answer.body["error"]["details"].as_str().unwrap_or_default().to_owned();
    for (file, status, said) in [
        (Vec::new(), 400, "Archivo vacío"),
        (b"phone|@valor1\n".to_vec(), 400, "solo contiene la fila de encabezado"),
        (b"573001234567|Jos\xe9\n".to_vec(), 400, "línea 1, columna 17"),
        (b"PK\x03\x04rest".to_vec(), 400, "libro de Excel"),
        (rows(4).into_bytes(), 413, "demasiados recipients"),
    ] {
        let refused = upload(&world, file, &[]).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert_eq!(refused.body["error"]["field"], "file", "{refused:?}");
        assert!(details(&refused).contains(said), "{said}: {refused:?}");
    }
    let nothing = Form::new().text("message", "hola");
    let refused = Answer::of(world.request(Method::POST, "/send-bulk-file").multipart(nothing)).await;
    assert_eq!((refused.status.as_u16(), &refused.body["error"]["field"]), (400, &json!("file")));
    let refused = upload(&world, rows(1), &[("message", " ")]).await;
    assert_eq!((refused.status.as_u16(), &refused.body["error"]["field"]), (400, &json!("message")));
    let refused = upload(&world, rows(1), &[("instances", "nadie")]).await;
    assert_eq!(refused.status, 404, "{refused:?}");
    let refused = world.post("/send-bulk-file", json!({})).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    world.post("/instances/shop/disconnect", json!({})).await;
    let refused = upload(&world, rows(1), &[]).await;
    assert_eq!(refused.status, 400);
    assert!(details(&refused).contains("No hay devices disponibles"), "{refused:?}");
    assert_eq!(world.get("/jobs").await.body, json!([]));
    let left = std::fs::read_dir(world.settings.data_dir.join("jobs")).unwrap().count();
    assert_eq!(left, 0, "a refused upload left a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn job_socket_sends_progress_and_a_summary_to_late_readers() {
    let world = World::new().await;
    let slow = json!([{ "match": {}, "action": { "delay_ms": 20 } }]);
    world.faults(slow).await;
    let file = format!("{}12|corto|1\n", rows(30));
    let id = id_of(&upload(&world, file, &[]).await);
    let mut early = socket(&world, &id).await;
    early.send(Message::text(r#"{"type":"ping","timestamp":"t1"}"#)).await.unwrap();
    let mut frames = frames_until(&mut early, "job_completed").await;
    let pong = frames.iter().position(|frame| frame["type"] == "pong").unwrap();
    assert_eq!(frames.remove(pong)["timestamp"], "t1");
    assert_eq!(
        frames[0],
        json!({ "type": "subscribed", "job_id": id, "message": format!("Suscrito a las actualizaciones del job {id}") })
    );
    let of = |kind: &str| frames.iter().filter(|frame| frame["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("job_started")[0]["message"], "Iniciando envío masivo de 31 mensajes");
    let chunk = of("chunk_processing")[0];
    assert_eq!(
        (&chunk["chunk_start"], &chunk["chunk_end"], &chunk["total"]),
        (&json!(0), &json!(31), &json!(31))
    );
    assert_eq!(chunk["message"], "Procesando chunk 0-31 de 31");
    let errors = of("error");
    assert_eq!((errors.len(), &errors[0]["phone"]), (1, &json!("12")));
    let last = of("progress").last().copied().unwrap();
    assert_eq!((&last["progress"]["sent"], &last["progress"]["failed"]), (&json!(30), &json!(1)));
    assert_eq!((&last["device_id"], &last["instance_id"]), (&json!(1), &json!("shop")));
    let sent: Vec<_> =
        of("progress").iter().map(|frame| frame["progress"]["sent"].as_u64().unwrap()).collect();
    assert!(sent.is_sorted(), "{sent:?}");
    let end = frames.last().unwrap();
    assert_eq!(end["status"], "completed");
    assert_eq!(
        (&end["results"]["sent"], &end["results"]["failed"], &end["results"]["total"]),
        (&json!(30), &json!(1), &json!(31))
    );

    let mut late = socket(&world, &id).await;
    let kinds: Vec<_> =
        frames_until(&mut late, "job_completed").await.iter().map(|frame| frame["type"].clone()).collect();
    assert_eq!(
        kinds,
        ["subscribed", "job_started", "chunk_processing", "error", "progress", "job_completed"]
    );

    let mut lost = socket(&world, "00000000-0000-0000-0000-000000000000").await;
    assert_eq!(frame(&mut lost).await, Err(4404));
    let stranger = format!("ws://{}/ws/job/{id}", world.node.address).into_client_request().unwrap();
    let stream = TcpStream::connect(world.node.address).await.unwrap();
    let refused = tokio_tungstenite::client_async(stranger, stream).await.unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn job_can_be_paused_resumed_cancelled_and_deleted() {
    let world = World::with(|settings| settings.bulk.window = 10).await;
    world.faults(json!([{ "match": {}, "action": { "delay_ms": 30 } }])).await;
    let id = id_of(&upload(&world, rows(300), &[]).await);
    let command = async |what: &str| world.post(&format!("/jobs/{id}/{what}"), json!({})).await;
    let paused = command("pause").await;
    assert_eq!(
        (paused.status.as_u16(), &paused.body["data"]["status"]),
        (200, &json!("paused")),
        "{paused:?}"
    );
    assert_eq!(Answer::of(world.request(Method::DELETE, &format!("/jobs/{id}"))).await.status, 409);
    assert_eq!(command("resume").await.body["data"]["status"], "processing");
    let cancelled = command("cancel").await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    until(&world, &id, "cancelled").await;
    eventually("every row to have a final status", async || {
        let job = world.get(&format!("/jobs/{id}")).await.body;
        let count = |name: &str| job["progress"][name].as_u64().unwrap();
        let all = count("sent") + count("failed") + count("cancelled") == 300;
        if all && count("cancelled") > 0 { Ok(()) } else { Err(job) }
    })
    .await;
    assert_eq!(command("resume").await.status, 409);
    assert_eq!(Answer::of(world.request(Method::DELETE, &format!("/jobs/{id}"))).await.status, 200);
    assert_eq!(world.get(&format!("/jobs/{id}")).await.status, 404);
    assert_eq!(command("pause").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dry_run_shows_a_preview_and_sends_nothing() {
    let world = World::with(|settings| settings.instance.rate_limit.per_second = 10.0).await;
    let answer = upload(&world, rows(100), &[("dry_run", "true")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((&answer.body["dry_run"], &answer.body["total_numbers"]), (&json!(true), &json!(100)));
    assert_eq!(answer.body["preview"].as_array().unwrap().len(), 10);
    assert_eq!(
        answer.body["preview"][0],
        json!({ "line": 2, "phone": "+51100000000", "message": "Hola nombre 0, tu pedido 00000" })
    );
    assert_eq!(
        (&answer.body["instances"], &answer.body["estimated_seconds"]),
        (&json!(["shop"]), &json!(10))
    );
    assert_eq!(world.get("/jobs").await.body, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_key_returns_the_existing_job() {
    let world = World::new().await;
    let send = async |key: &str, file: String| {
        id_of(&upload_to(&world, "/messages/send-bulk-file", file, &[], Some(key)).await)
    };
    let first = send("k1", rows(2)).await;
    assert_eq!(send("k1", rows(2)).await, first);
    assert_ne!(send("k1", rows(3)).await, first);
    assert_ne!(send("k2", rows(2)).await, first);
    until(&world, &first, "completed").await;
    assert_eq!(send("k1", rows(2)).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn suppressed_recipients_are_skipped_and_counted() {
    let world = World::new().await;
    world.post("/suppressions", json!({ "phone": "+51100000001" })).await;
    let id = id_of(&upload(&world, rows(3), &[]).await);
    let done = until(&world, &id, "completed").await;
    assert_eq!((&done["progress"]["sent"], &done["progress"]["skipped"]), (&json!(2), &json!(1)));
    assert!(!texts(&world).await.contains_key("51100000001"));
    let all = id_of(&upload(&world, rows(3), &[("include_suppressed", "true")]).await);
    assert_eq!(until(&world, &all, "completed").await["progress"]["sent"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn job_continues_after_a_restart() {
    let mut world = World::with(|settings| settings.bulk.window = 20).await;
    world.faults(json!([{ "match": {}, "action": { "delay_ms": 10 } }])).await;
    let id = id_of(&upload(&world, rows(400), &[]).await);
    eventually("the first 50 messages to arrive", async || {
        let count = world.arrived().await.len();
        if count >= 50 { Ok(()) } else { Err(count) }
    })
    .await;
    world.restart_node().await;
    let done = until(&world, &id, "completed").await;
    assert_eq!(done["progress"]["sent"], 400, "{done}");
    let texts = texts(&world).await;
    assert_eq!(texts.len(), 400);
    assert!(texts.values().all(|texts| texts.len() == 1), "a recipient received a message twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failed_status_without_callback_data_updates_the_row_of_an_ended_job() {
    let world = World::new().await;
    // The sandbox's own statuses go to a closed port. The test posts the status itself.
    let nowhere = json!({ "url": "http://127.0.0.1:9/", "app_secret": APP_SECRET });
    world.control(Method::POST, "/_sandbox/webhook", Some(nowhere)).await;
    let id = id_of(&upload(&world, rows(3), &[]).await);
    until(&world, &id, "completed").await;
    let path = format!("/jobs/{id}/results");
    let name = world.get(&path).await.body["data"][1]["provider_id"].as_str().unwrap().to_owned();
    let mut failed = status(&name, "failed");
    failed["errors"] = json!([{ "code": 131_026, "title": "Message undeliverable" }]);
    deliver(&world, webhook(&world, "shop", "messages", json!({ "statuses": [failed] }))).await;
    let progress = eventually("the row to have failed", async || {
        let progress = world.get(&format!("/jobs/{id}")).await.body["progress"].clone();
        if progress["failed"] == 1 { Ok(progress) } else { Err(progress) }
    })
    .await;
    assert_eq!(progress["sent"], 2);
    let row = world.get(&path).await.body["data"][1].clone();
    assert_eq!((&row["status"], &row["code"], &row["line"]), (&json!("failed"), &json!(131_026), &json!(3)));
    assert_eq!(row["provider_id"], json!(name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn text_too_long_for_all_rows_is_refused_and_for_one_row_fails_that_row() {
    let world = World::new().await;
    let long = "x".repeat(4_090);
    let message = format!("{long} @valor1");
    for fields in [vec![], vec![("dry_run", "true")]] {
        let text = format!("{long}{long} @valor1");
        let fields: Vec<_> = fields.into_iter().chain([("message", text.as_str())]).collect();
        let refused = upload(&world, rows(2), &fields).await;
        assert_eq!((refused.status.as_u16(), &refused.body["error"]["field"]), (400, &json!("message")));
        assert!(refused.body["error"]["details"].as_str().unwrap().contains("4096"), "{refused:?}");
    }
    assert_eq!(world.get("/jobs").await.body, json!([]));
    let file = "51100000000|a\n51100000001|demasiado largo\n51100000002|b\n";
    let id = id_of(&upload(&world, file, &[("message", &message)]).await);
    let done = until(&world, &id, "completed").await;
    assert_eq!((&done["progress"]["sent"], &done["progress"]["failed"]), (&json!(2), &json!(1)));
    let metrics = world.get("/metrics").await;
    let metrics = metrics.body.as_str().unwrap();
    for line in [
        r#"relevo_jobs{state="completed"} 1.0"#,
        r#"relevo_job_rows{outcome="sent"} 2.0"#,
        r#"relevo_job_rows{outcome="failed"} 1.0"#,
        "relevo_job_rows_open{} 0.0",
        "relevo_job_oldest_seconds{} 0.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
