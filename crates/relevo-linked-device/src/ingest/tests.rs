//! Tests of the ingest of received messages.

use whatsapp_rust::types::message::{MessageInfo, MessageSource};
use whatsapp_rust::waproto::whatsapp as wa;

use super::*;
use relevo_clock::{Clock, Random};
use relevo_domain::{InboundContent, Recipient, Timestamp};
use relevo_egress::{self as egress, Egress};
use relevo_metrics::Metrics;
use relevo_provider::{DirectClient, LinkedOptions, LoginGate};
use relevo_store::{self as store, Blobs, DataFolder, Space, Store};

const NOW: Timestamp = Timestamp(1_763_800_000_000);

struct IngestFixture {
    ingest: MessageIngest,
    inbox: mpsc::Receiver<ConnectionEvent>,
    _dir: tempfile::TempDir,
}

fn fixture() -> IngestFixture {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let (store, _closing) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
    let (sender, inbox) = mpsc::channel(16);
    let clock = Clock::from_tokio(NOW);
    let shared = ProviderResources {
        egress: Egress::new(&egress::Options::default()).unwrap(),
        blobs: Blobs::open(&folder).unwrap(),
        store: store.clone(),
        clock,
        random: Random::seeded(1),
        linked: LinkedOptions::default(),
        login_gate: LoginGate::default(),
        direct_client: DirectClient::default(),
    };
    let number = InstanceNumber::FIRST;
    let contacts = FirstContacts::new(store, clock, number, 1);
    IngestFixture { ingest: MessageIngest { number, shared, contacts, inbox: sender }, inbox, _dir: dir }
}

fn received(id: &str, chat: &str, message: wa::Message) -> Received {
    let sender: whatsapp_rust::Jid = "573001234567:2@s.whatsapp.net".parse().unwrap();
    let source = MessageSource { chat: chat.parse().unwrap(), sender, ..MessageSource::default() };
    let info = MessageInfo { id: id.to_owned(), source, ..MessageInfo::default() };
    Received::builder().message(Arc::new(message)).info(Arc::new(info)).build()
}

fn text(body: &str) -> wa::Message {
    wa::Message { conversation: Some(body.to_owned()), ..Default::default() }
}

const ANA: &str = "573001234567@s.whatsapp.net";

#[tokio::test(start_paused = true)]
async fn messages_are_delivered_and_their_sender_becomes_a_contact() {
    let mut fixture = fixture();
    let batch = [received("A", ANA, text("uno")), received("B", ANA, text("dos"))];
    let committed = fixture.ingest.deliver(None, &batch).await.unwrap().unwrap();
    let Some(ConnectionEvent::Messages { messages, durable }) = fixture.inbox.recv().await else { panic!() };
    let texts: Vec<_> = messages.iter().map(|message| &message.content).collect();
    assert_eq!(texts, [&InboundContent::Text("uno".to_owned()), &InboundContent::Text("dos".to_owned())]);
    durable.send(true).unwrap();
    assert_eq!(committed.await, Ok(true));
    let to: Recipient = ANA.parse().unwrap();
    // The sender is no stranger, so the only first contact of the day is left for another recipient.
    for recipient in [&to, &"573009999999".parse().unwrap()] {
        fixture.ingest.contacts.check_limit(recipient).await.unwrap();
    }
    let cached = message_cache::find_message(&fixture.ingest.shared.store, fixture.ingest.number, "B")
        .unwrap()
        .unwrap();
    assert_eq!((cached.chat.as_str(), cached.sender.as_str(), cached.from_me), (ANA, ANA, false));
}

#[tokio::test(start_paused = true)]
async fn empty_message_is_skipped_and_status_update_is_an_event() {
    let mut fixture = fixture();
    let empty = [received("A", ANA, wa::Message::default())];
    assert!(fixture.ingest.deliver(None, &empty).await.unwrap().is_none());
    let status = [received("B", "status@broadcast", text("hoy"))];
    assert!(fixture.ingest.deliver(None, &status).await.unwrap().is_none());
    let event = fixture.inbox.recv().await;
    assert!(
        matches!(event, Some(ConnectionEvent::Other { kind: relevo_domain::EventKind::StatusUpdate, .. })),
        "{event:?}"
    );
    drop(fixture.inbox);
    let after_close = [received("C", ANA, text("tres"))];
    assert!(fixture.ingest.deliver(None, &after_close).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn message_cache_is_deleted_with_its_instance() {
    let fixture = fixture();
    let batch: Vec<_> = (0..1200).map(|n| received(&n.to_string(), ANA, text("hola"))).collect();
    let entries = batch
        .iter()
        .filter_map(|received| {
            message_cache::MessageCacheEntry::from_received(received, &LidMapping::default())
        })
        .collect();
    let store = &fixture.ingest.shared.store;
    message_cache::insert_all(store, fixture.ingest.number, entries).await;
    message_cache::delete_all(store, fixture.ingest.number, Space::LinkedMessageCache).await.unwrap();
    assert_eq!(message_cache::find_message(store, fixture.ingest.number, "0").unwrap(), None);
    let prefix = store::Key::new(Space::LinkedMessageCache);
    assert_eq!(store.range(&prefix, &prefix.clone().after_prefix()).count(), 0);
}
