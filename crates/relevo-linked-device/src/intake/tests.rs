use whatsapp_rust::types::message::{MessageInfo, MessageSource};
use whatsapp_rust::waproto::whatsapp as wa;

use super::*;
use relevo_clock::Clock;
use relevo_domain::{InboundContent, Recipient, Timestamp};
use relevo_egress::{self as egress, Egress};
use relevo_metrics::Metrics;
use relevo_provider::{Direct, LinkedOptions, Seats};
use relevo_store::{self as store, Blobs, Folder, Space, Store};

const NOW: Timestamp = Timestamp(1_763_800_000_000);

struct World {
    intake: Intake,
    inbox: mpsc::Receiver<Happening>,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let (store, _closing) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
    let (sender, inbox) = mpsc::channel(16);
    let clock = Clock::following_tokio(NOW);
    let shared = Shared {
        egress: Egress::new(&egress::Options::default()).unwrap(),
        blobs: Blobs::open(&folder).unwrap(),
        store: store.clone(),
        clock,
        linked: LinkedOptions::default(),
        seats: Seats::default(),
        direct: Direct::default(),
    };
    let number = InstanceNumber::FIRST;
    let contacts = FirstContacts::new(store, clock, number, 1);
    World { intake: Intake { number, shared, contacts, inbox: sender }, inbox, _dir: dir }
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
async fn messages_are_handed_over_and_whoever_wrote_is_no_stranger() {
    let mut world = world();
    let batch = [received("A", ANA, text("uno")), received("B", ANA, text("dos"))];
    let kept = world.intake.pass_on(None, &batch).await.unwrap().unwrap();
    let Some(Happening::Messages { messages, kept: answer }) = world.inbox.recv().await else { panic!() };
    let texts: Vec<_> = messages.iter().map(|message| &message.content).collect();
    assert_eq!(texts, [&InboundContent::Text("uno".to_owned()), &InboundContent::Text("dos".to_owned())]);
    answer.send(true).unwrap();
    assert_eq!(kept.await, Ok(true));
    let to: Recipient = ANA.parse().unwrap();
    // The only first contact of the day is left to somebody else.
    for who in [&to, &"573009999999".parse().unwrap()] {
        world.intake.contacts.admit(who).await.unwrap();
    }
    let noted = index::find(&world.intake.shared.store, world.intake.number, "B").unwrap().unwrap();
    assert_eq!((noted.chat.as_str(), noted.sender.as_str(), noted.from_me), (ANA, ANA, false));
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_waits_for_nobody_and_status_updates_go_aside() {
    let mut world = world();
    let noise = [received("A", ANA, wa::Message::default())];
    assert!(world.intake.pass_on(None, &noise).await.unwrap().is_none());
    let status = [received("B", "status@broadcast", text("hoy"))];
    assert!(world.intake.pass_on(None, &status).await.unwrap().is_none());
    let told = world.inbox.recv().await;
    assert!(matches!(told, Some(Happening::News { kind: "status_update", .. })), "{told:?}");
    drop(world.inbox);
    let gone = [received("C", ANA, text("tres"))];
    assert!(world.intake.pass_on(None, &gone).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_knew_is_forgotten_with_it() {
    let world = world();
    let batch: Vec<_> = (0..1200).map(|n| received(&n.to_string(), ANA, text("hola"))).collect();
    let entries = batch.iter().filter_map(|one| index::Entry::of(one, &Names::default())).collect();
    let store = &world.intake.shared.store;
    index::note_all(store, world.intake.number, entries).await;
    index::forget(store, world.intake.number, Space::LinkedIndex).await.unwrap();
    assert_eq!(index::find(store, world.intake.number, "0").unwrap(), None);
    let prefix = store::Key::new(Space::LinkedIndex);
    assert_eq!(store.range(&prefix, &prefix.clone().after_prefix()).count(), 0);
}
