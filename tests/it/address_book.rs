//! The address book, with the answers of the documented application, and the suppression list.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{Answer, World};

async fn patch(world: &World, path: &str, body: Value) -> Answer {
    Answer::of(world.request(Method::PATCH, path).json(&body)).await
}

async fn delete(world: &World, path: &str) -> Answer {
    Answer::of(world.request(Method::DELETE, path)).await
}

/// Every documented pair of request and answer: cloud-api-endpoints.md §10 to §14 and later additions.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn address_book_answers_as_documented() {
    let world = World::empty(|_| {}).await;
    let data = json!({ "email": "juan@example.com", "company": "Empresa XYZ", "department": "Ventas" });
    let juan = json!({ "phone": "573123456789", "name": "Juan Pérez", "data": data, "empresa_id": 7 });

    let created = world.post("/api/numbers", juan.clone()).await;
    let message = "Number 573123456789 added successfully";
    let expected =
        json!({ "success": true, "action": "created", "message": message, "existed_before": false });
    assert_eq!((created.status.as_u16(), created.body), (201, expected));

    let found = world.get("/api/numbers/573123456789").await;
    assert_eq!((found.status.as_u16(), &found.body["success"]), (200, &json!(true)));
    let number = found.body["number"].as_object().unwrap();
    let keys: Vec<_> = number.keys().map(String::as_str).collect();
    assert_eq!(keys, ["created_at", "data", "name", "phone", "updated_at"]);
    assert_eq!((&number["name"], &number["data"]), (&json!("Juan Pérez"), &data));
    let at = number["created_at"].as_str().unwrap();
    assert!(at.len() == "2025-01-16T10:00:00.000Z".len() && at.ends_with('Z'), "{at}");

    let again = world.post("/api/numbers", json!({ "phone": "573123456789" })).await;
    let message = "Number 573123456789 existed before, old record deleted and new one created";
    let expected =
        json!({ "success": true, "action": "recreated", "message": message, "existed_before": true });
    assert_eq!((again.status.as_u16(), again.body), (201, expected));
    let listed = world.get("/api/numbers").await;
    assert_eq!((listed.status.as_u16(), &listed.body["total"]), (200, &json!(1)));
    assert_eq!(listed.body["numbers"][0]["data"], Value::Null);
    assert_eq!(listed.body["numbers"][0]["name"], Value::Null);

    let updated = json!({ "success": true, "message": "Data for number 573123456789 updated successfully" });
    let changed = patch(&world, "/api/numbers/573123456789", json!({ "a": 1, "b": { "c": 2 } })).await;
    assert_eq!((changed.status.as_u16(), &changed.body), (200, &updated));
    let body = json!({ "phone": "573123456789", "data": { "a": "__DELETE__", "d": null }, "empresa_id": 7 });
    assert_eq!(patch(&world, "/api/numbers/update", body).await.body, updated);
    let found = world.get("/api/numbers/573123456789").await;
    assert_eq!(found.body["number"]["data"], json!({ "b": { "c": 2 }, "d": null }));

    let body = json!({ "phones": ["573123456789", "1"], "data": { "x": 1 } });
    let bulk = patch(&world, "/api/numbers/bulk-update", body).await;
    let details = json!([
        { "phone": "573123456789", "success": true, "error": null },
        { "phone": "1", "success": false, "error": "Number not found" },
    ]);
    let results = json!({ "total": 2, "successful": 1, "failed": 1, "details": details });
    let message = "Bulk update completed: 1 successful, 1 failed";
    assert_eq!(bulk.body, json!({ "success": true, "message": message, "results": results }));

    let exists = world.get("/api/numbers/573123456789/exists").await.body;
    assert_eq!(exists, json!({ "success": true, "exists": true, "phone": "573123456789" }));
    let exists = world.get("/api/numbers/%2B57%20300/exists").await.body;
    assert_eq!(exists, json!({ "success": true, "exists": false, "phone": "+57 300" }));

    let gone = delete(&world, "/api/numbers/573123456789").await;
    let expected = json!({ "success": true, "message": "Number 573123456789 deleted successfully" });
    assert_eq!((gone.status.as_u16(), gone.body), (200, expected));
    let unknown = json!({ "success": false, "message": "Number not found" });
    for answer in [
        world.get("/api/numbers/573123456789").await,
        delete(&world, "/api/numbers/573123456789").await,
        patch(&world, "/api/numbers/573123456789", json!({ "a": 1 })).await,
        patch(&world, "/api/numbers/update", json!({ "phone": "1", "data": { "a": 1 } })).await,
    ] {
        assert_eq!((answer.status.as_u16(), &answer.body), (404, &unknown));
    }

    for n in 0..5 {
        world.post("/api/numbers", json!({ "phone": n.to_string() })).await;
    }
    let cleared = Answer::of(world.request(Method::POST, "/api/numbers/clear")).await;
    assert_eq!(cleared.body, json!({ "success": true, "deleted": 5, "message": "Deleted 5 numbers" }));
    assert_eq!(world.get("/api/numbers").await.body, json!({ "success": true, "numbers": [], "total": 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn address_book_refuses_invalid_requests_with_a_text() {
    let world = World::empty(|_| {}).await;
    let refused = async |method: &str, path: &str, body: &str| {
        let request = world.request(method.parse().unwrap(), path);
        let request = request.header("Content-Type", "application/json; charset=utf-8").body(body.to_owned());
        let answer = Answer::of(request).await;
        (answer.status.as_u16(), answer.body["error"].as_str().unwrap().to_owned())
    };
    for (method, path, body, text) in [
        ("POST", "/api/numbers", "{}", "Phone number is required"),
        ("POST", "/api/numbers", r#"{"phone":""}"#, "Phone number is required"),
        ("POST", "/api/numbers", r#"{"phone":573}"#, "phone must be a string"),
        ("POST", "/api/numbers", r#"{"phone":"1","name":5}"#, "name must be a string"),
        ("POST", "/api/numbers", r#"{"phone":"1","data":[1]}"#, "data must be an object"),
        ("PATCH", "/api/numbers/1", "{}", "No data provided"),
        ("PATCH", "/api/numbers/update", r#"{"data":{"a":1}}"#, "Phone number is required"),
        ("PATCH", "/api/numbers/update", r#"{"phone":"1","data":{}}"#, "Data object is required"),
        ("PATCH", "/api/numbers/bulk-update", r#"{"phones":[],"data":{"a":1}}"#, "phones list is required"),
        ("PATCH", "/api/numbers/bulk-update", r#"{"phones":["1"]}"#, "Data object is required"),
        (
            "PATCH",
            "/api/numbers/bulk-update",
            r#"{"phones":[1],"data":{"a":1}}"#,
            "phones must be a list of strings",
        ),
        ("GET", "/api/numbers?limit=0", "", "limit must be 1 to 1000"),
    ] {
        assert_eq!(refused(method, path, body).await, (400, text.to_owned()), "{method} {path} {body}");
    }
    for body in ["", "{", "[]", "null", "hola"] {
        let (status, text) = refused("POST", "/api/numbers", body).await;
        assert!(status == 400 && text.contains("JSON"), "{body}: {text}");
    }
    let large = json!({ "phone": "1", "data": { "x": "y".repeat(70_000) } });
    assert_eq!(world.post("/api/numbers", large).await.status, 413);
    assert_eq!(world.get("/api/numbers").await.body["total"], 0);
    // The default content type of curl.
    let request = world.request(Method::POST, "/api/numbers");
    let request =
        request.header("Content-Type", "application/x-www-form-urlencoded").body(r#"{"phone":"1"}"#);
    assert_eq!(Answer::of(request).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn address_book_is_paged_and_survives_a_restart() {
    let mut world = World::empty(|_| {}).await;
    for n in 0..25 {
        world.post("/api/numbers", json!({ "phone": format!("57{n:02}"), "data": { "n": n } })).await;
    }
    world.restart_node().await;
    let (mut seen, mut path) = (Vec::new(), "/api/numbers?limit=10".to_owned());
    loop {
        let page = world.get(&path).await.body;
        assert_eq!(page["total"], 25);
        let numbers = page["numbers"].as_array().unwrap();
        seen.extend(numbers.iter().map(|number| number["phone"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/numbers?limit=10&after={next}"),
            None => break,
        }
    }
    let newest_first: Vec<_> = (0..25).rev().map(|n| format!("57{n:02}")).collect();
    assert_eq!(seen, newest_first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn suppressions_can_be_added_listed_and_deleted() {
    let world = World::empty(|_| {}).await;
    let body = json!({ "phones": ["+57 300 123 4567", "573001234568"], "note": "asked by mail" });
    let entered = world.post("/suppressions", body).await;
    assert_eq!(entered.body, json!({ "success": true, "data": { "added": 2, "already": 0 } }));
    let entered = world.post("/suppressions", json!({ "phone": "573001234567@s.whatsapp.net" })).await;
    assert_eq!(entered.body["data"], json!({ "added": 0, "already": 1 }));
    let found = world.get("/suppressions/%2B573001234567").await.body["data"].clone();
    let shown = (&found["phone"], &found["reason"], &found["note"]);
    assert_eq!(shown, (&json!("573001234567"), &json!("api"), &json!("asked by mail")));

    let first = world.get("/suppressions?limit=1").await.body;
    assert_eq!(
        (&first["data"][0]["phone"], &first["next"]),
        (&json!("573001234567"), &json!("573001234567"))
    );
    let second = world.get("/suppressions?limit=1&after=573001234567").await.body;
    assert_eq!(second["data"][0]["phone"], "573001234568");

    assert_eq!(delete(&world, "/suppressions/573001234567").await.status, 200);
    for gone in
        [delete(&world, "/suppressions/573001234567").await, world.get("/suppressions/573001234567").await]
    {
        assert_eq!((gone.status.as_u16(), &gone.body["error"]["type"]), (404, &json!("not_found")));
    }
    for (body, field) in [
        (json!({}), "phones"),
        (json!({ "phones": [] }), "phones"),
        (json!({ "phones": ["573001234567", "12"] }), "phones[1]"),
        (json!({ "phone": "ana" }), "phone"),
        (json!({ "phone": "573001234567", "note": "x".repeat(513) }), "note"),
    ] {
        let refused = world.post("/suppressions", body).await;
        assert_eq!((refused.status.as_u16(), &refused.body["error"]["field"]), (400, &json!(field)));
    }
    assert_eq!(world.get("/suppressions/ana").await.status, 400);
    assert_eq!(world.get("/suppressions").await.body["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn suppression_import_accepts_a_raw_file_or_a_form() {
    let world = World::empty(|_| {}).await;
    let mut file = "phone,name\r\n+57 300 000 0000,Ana\r\nana,x\r\n".to_owned();
    for n in 1..3000 {
        file += &format!("57300{n:07};x\n");
    }
    let request = world.request(Method::POST, "/suppressions/import").header("Content-Type", "text/csv");
    let imported = Answer::of(request.body(file.clone())).await;
    let data = &imported.body["data"];
    assert_eq!(
        (&data["added"], &data["already"], &data["invalid_total"]),
        (&json!(3000), &json!(0), &json!(1))
    );
    assert_eq!(data["invalid"][0]["line"], 3);
    assert!(data["invalid"][0]["reason"].as_str().unwrap().starts_with("\"ana\""), "{data}");

    let form = Form::new().text("note", "x").part("file", Part::text(file.clone()).file_name("a.csv"));
    let imported = Answer::of(world.request(Method::POST, "/suppressions/import").multipart(form)).await;
    assert_eq!(imported.body["data"]["already"], 3000, "{imported:?}");
    assert_eq!(world.get("/suppressions/573000000001").await.body["data"]["reason"], "file");

    let form = Form::new().text("note", "x");
    let refused = Answer::of(world.request(Method::POST, "/suppressions/import").multipart(form)).await;
    assert_eq!((refused.status.as_u16(), &refused.body["error"]["field"]), (400, &json!("file")));
}
