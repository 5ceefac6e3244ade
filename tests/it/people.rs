//! People and their names: how numbers are read, warned about and compared, and how the suppression list follows people.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::cloud_webhook::{deliver, text_from, webhook};
use crate::support::{Answer, World, eventually};

const TEXT: &str = "/instances/shop/messages/text";
const GROUP: &str = "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OToxMjAzNjMwOTk4ODc3NjY1NTQZD";

async fn send(world: &World, phone: impl Into<Value>) -> Answer {
    world.post(TEXT, json!({ "phone": phone.into(), "message": "Hola" })).await
}

async fn upload(world: &World, rows: &str, fields: &[(&'static str, &'static str)]) -> Answer {
    let file = Part::bytes(rows.as_bytes().to_vec()).file_name("clientes.csv");
    let form =
        fields.iter().fold(Form::new().part("file", file), |form, (name, text)| form.text(*name, *text));
    let form = form.text("message", "Hola");
    Answer::of(world.request(Method::POST, "/messages/send-bulk-file").multipart(form)).await
}

async fn run_job(world: &World, rows: &str, fields: &[(&'static str, &'static str)]) -> Vec<Value> {
    let created = upload(world, rows, fields).await;
    assert_eq!(created.status, 200, "{created:?}");
    let job = format!("/jobs/{}", created.body["job"]["id"].as_str().unwrap());
    eventually("the job to complete", async || {
        let answer = world.get(&job).await;
        if answer.body["status"] == "completed" { Ok(()) } else { Err(answer) }
    })
    .await;
    world.get(&format!("{job}/results")).await.body["data"].as_array().unwrap().clone()
}

/// The recipients of all messages, without `+`.
async fn recipients(world: &World) -> Vec<String> {
    let arrived = world.arrived().await;
    arrived.iter().map(|message| message["to"].as_str().unwrap().trim_start_matches('+').to_owned()).collect()
}

async fn is_suppressed(world: &World, name: &str) -> bool {
    world.get(&format!("/suppressions/{name}")).await.status == 200
}

async fn says(world: &World, phone: &str, id: &str, body: &str) {
    deliver(world, webhook(world, "shop", "messages", json!({ "messages": [text_from(phone, id, body)] })))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_number_is_read_in_every_form_at_every_door() {
    let world = World::new().await;
    for phone in [
        json!("\u{202a}+57 300 123 4611\u{202c}"),
        json!("57\u{2011}300\u{2011}123\u{2011}4611"),
        json!("tel:+573001234611"),
        json!("00573001234611"),
        json!("٥٧٣٠٠١٢٣٤٦١١"),
        json!(573_001_234_611_u64),
    ] {
        for path in [TEXT, "/api/send-message"] {
            let sent = world.post(path, json!({ "phone": phone, "message": "Hola" })).await;
            assert_eq!(sent.status, 200, "{path} {phone}: {sent:?}");
            assert!(sent.body.get("warning").is_none());
        }
        let added = world.post("/suppressions", json!({ "phones": [phone] })).await;
        assert_eq!(added.status, 200, "{added:?}");
    }
    assert!(recipients(&world).await.iter().all(|to| to == "573001234611"));
    assert_eq!(world.get("/suppressions").await.body["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn short_number_is_sent_and_a_leading_zero_is_refused() {
    let world = World::new().await;
    for phone in ["376312345", "29041234"] {
        assert_eq!(send(&world, phone).await.status, 200);
    }
    assert_eq!(recipients(&world).await, ["376312345", "29041234"]);
    for path in [TEXT, "/api/send-message", "/suppressions"] {
        let refused = world.post(path, json!({ "phone": "0718139912", "message": "Hola" })).await;
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.body.to_string().contains("begin with the country code"), "{refused:?}");
    }
    let rows = run_job(&world, "0718139913\n00573001234504\n", &[]).await;
    assert!(rows[0]["error"].as_str().unwrap().contains("country code"), "{rows:?}");
    assert_eq!(recipients(&world).await[2..], ["573001234504"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn number_that_its_country_does_not_have_is_sent_with_a_warning() {
    let world = World::new().await;
    let sent = send(&world, "3001238011").await;
    assert_eq!((sent.status.as_u16(), &sent.body["warning"]["country"]), (200, &json!("GR")));
    assert!(sent.body["warning"]["message"].as_str().unwrap().contains("Greece"));
    let queued = world.queue(TEXT, json!({ "phone": "3001238011", "message": "Hola" })).await;
    assert_eq!((queued.status.as_u16(), &queued.body["warning"]["country"]), (202, &json!("GR")));
    let application =
        world.post("/api/send-message", json!({ "phone": "3001238011", "message": "Hola" })).await;
    assert!(
        application.body["warnings"][0]["message"].as_str().unwrap().contains("país de Grecia"),
        "{application:?}"
    );
    let many = json!({ "phones": ["3001238011", "573001238013"], "body_text": "Hola" });
    let many = world.post("/api/send-broadcast-interactive", many).await;
    assert_eq!((many.status.as_u16(), many.body["warnings"].as_array().unwrap().len()), (200, 1), "{many:?}");

    let rows = "3001238011\n573001238013\n";
    let dry = upload(&world, rows, &[("dry_run", "true")]).await.body;
    assert_eq!((&dry["warned_rows"], &dry["invalid_rows"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&dry["warning_sample"][0]["line"], &dry["warning_sample"][0]["warning"]["country"]),
        (&json!(1), &json!("GR"))
    );
    let created = upload(&world, rows, &[]).await.body;
    assert_eq!(created["warned_rows"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn default_country_completes_national_numbers() {
    let world = World::with(|settings| settings.http.default_country = Some("CO".parse().unwrap())).await;
    let sent = send(&world, 3_001_238_031_u64).await;
    assert!(sent.status == 200 && sent.body.get("warning").is_none(), "{sent:?}");
    run_job(&world, "300 123 8032\n+34612345678\n", &[]).await;
    run_job(&world, "612345679\n573001238033\n", &[("default_country", "ES")]).await;
    let mut sent = recipients(&world).await;
    sent.sort();
    assert_eq!(sent, ["34612345678", "34612345679", "573001238031", "573001238032", "573001238033"]);
    let many = json!({ "phones": ["3001238034"], "body_text": "Hola", "use_queue": false });
    assert_eq!(world.post("/api/send-broadcast-interactive", many).await.status, 200);
    assert!(recipients(&world).await.contains(&"573001238034".to_owned()));
    let wrong = upload(&world, "1\n", &[("default_country", "Colombia")]).await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["error"]["field"]),
        (400, &json!("default_country")),
        "{wrong:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn opt_out_holds_for_both_spellings_and_follows_a_changed_number() {
    let world = World::new().await;
    says(&world, "558587654321", "wamid.1", "¡BAJA! 🙏").await;
    assert!(is_suppressed(&world, "5585987654321").await);
    let rows = run_job(&world, "5585987654321\n573001234500\n", &[]).await;
    assert_eq!(
        (&rows[0]["status"], recipients(&world).await),
        (&json!("skipped"), vec!["573001234500".to_owned()])
    );
    let system = json!({ "type": "user_changed_number", "body": "…", "wa_id": "573009999902" });
    let notice = json!({ "id": "wamid.2", "from": "558587654321", "timestamp": "1763800000", "type": "system", "system": system });
    deliver(&world, webhook(&world, "shop", "messages", json!({ "messages": [notice] }))).await;
    assert!(is_suppressed(&world, "573009999902").await && !is_suppressed(&world, "5585987654321").await);
    // Over a restart, too.
    let mut world = world;
    world.restart_node().await;
    assert!(is_suppressed(&world, "573009999902").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ids_of_users_and_groups_can_be_answered() {
    let world = World::new().await;
    for phone in ["US.ENT.70025518834400917263", "US.13491208655302741918", GROUP] {
        let sent = send(&world, phone).await;
        assert_eq!(sent.status, 200, "{phone}: {sent:?}");
    }
    let arrived = world.arrived().await;
    assert_eq!(arrived[0]["body"]["recipient"], "US.ENT.70025518834400917263");
    assert_eq!(
        (&arrived[2]["body"]["recipient_type"], &arrived[2]["body"]["to"]),
        (&json!("group"), &json!(GROUP))
    );
}
