//! Law 9: a collection that a peer can fill is a `Bounded`, or has a row here.

use quote::ToTokens;
use syn::visit::Visit;

use super::source::{Code, LIBRARY, assert_none, names_in};

/// The rooms that a peer can fill, below `crates`.
const ROOMS: &str = "couplet-bus/ couplet-http/ couplet-http2/ couplet-rooms/
    couplet-core/src/datagrams.rs couplet-core/src/driver/ couplet-core/src/layers/
    couplet-core/src/outbox couplet-core/src/protocols/ couplet-core/src/transport/
    couplet-core/src/unread.rs";

/// Files in these rooms that only the program or a test fills.
const OWN_FILES: &str = "couplet-core/src/driver/memory/ couplet-core/src/driver/pool.rs
    couplet-core/src/driver/process.rs couplet-core/src/driver/stalls.rs";

/// The constants and settings that bound other fields: those whose length is not what is bounded
/// (bytes in pieces, a sum over entries, an entry for each of something that is bounded), types of
/// other crates, and the fields of `couplet-http2`, which depends on no other crate of ours.
const ELSEWHERE: &str = "
    DatagramOptions::queue: DatagramQueue::bytes
    DatagramOptions::size: ReceivedBatch::held
    END: Ends::first Ends::last
    LoadLimits::connections: Mio::retired Mio::again Mio::later Mio::retry Mio::held
    LoadLimits::connections: Flows::flows Flows::unplaced WarmConnections::idle policies::Peers
    LONGEST: ProxyHeader::alpn ProxyHeader::unique_id
    LONGEST_HELLO: ClientHello::alpn ClientHello::cipher_suites
    LONGEST_RECORD: Tls::pending
    Tuning::read_buffer: Unread::bytes HeldMessage::bytes Awaited::0 RareState::unread
    MESSAGE_LIMIT: FrameBuffer::bytes
    PIECE: Copied::0 Outbox::open Spares::hot DecodedBody::output
    SPARE_TOTAL: Spares::others
    Transport::set_write_cap: Sealed::pieces Sealed::spent
    HttpOptions::max_streams: Session::requests Session::wakers Session::sending Session::rings
    HttpOptions::max_streams: BellState::rings Contents::bodies Streams::slots Streams::free
    HttpOptions::max_streams: Streams::order share::Queue::waiting
    HttpOptions::max_unsent: Contents::files
    HttpOptions::stream_window: InboxState::data
    HIGH: H2Stream::unsent
    READ: Machine::input
    Options::connection_window: Connection::collected Connection::events
    Options::max_frame: Connection::partial
    Options::max_head: Block::bytes Builder::text Decoder::literal
    Options::max_output: Output::bytes Output::payloads
    Options::max_streams: Connection::turns Streams::open
    Options::max_unsent: Unsent::pieces
    SLOTS: Encoder::slots
    Streams::max_closed: Streams::closed
    Table::max_size: Table::text Table::entries
    LogLimits::messages: MemoryLog::messages MemoryLog::writers
    MAX_INFO: Info::connect_urls
    MAX_REST: redis::parser::Parser::reply
    MAX_SIZE: Message::headers RepliedConfig::subjects
    MAX_VALUES: List::0 Push::0
    Memory::queue: Core::inbox memory::Batch::messages
    Settings::queue: Queue::frames Queue::sent
    Limits::loop_messages: LoopQueue::items Local::events
    Limits::rooms: LoopQueue::refused Local::rooms
    RoomOptions::history_messages: link::Backlog Queue::missed
    RoomOptions::queue_messages: Dropped::0";

/// Fields that only the program fills: registrations, settings, requests, timers.
const OWN: &str = "
    CommonOptions::alpn Connected::memberships Core::subscribers DatagramCell::option_requests
    DatagramCell::socket_requests DatagramCell::stopped DatagramCell::timers
    Effects::calls Effects::metas Effects::removed Encoder::name FileBody::pieces
    FileLocks::locked Hub::logs Hub::members HubState::loops Layers::kinds Layers::levels
    LifetimeAdmission::calls Link::queues Local::connections MemberQueue::subscriptions
    MembersById ModeSwitch::extra Nats::subscriptions Opened::infos Page::entries Pending::waiting
    Pool::attempts Pool::idle Pool::shared PubSub::patterns PubSub::routes RareState::lost
    RareState::options RareState::peer_end RareState::starting RareState::timers
    RareState::waiting Registry::buses Registry::loops RemovedConnections Resolved::1
    Room::by_loop Room::present Route::ids Settings::servers Upgrade::unread
    WebSocketOptions::protocols WebSocketRequest::headers engine::Batch::messages names::Names
    throttle::Queue::waiting";

/// Types that grow. A `String` is a part of a message.
const COLLECTIONS: &str = "BTreeMap BTreeSet BinaryHeap BytesMut HashMap HashSet LinkedList Sender
    SortedMap SyncSender UnboundedSender Vec VecDeque";

/// The fields, and aliases, with collections outside of a `Bounded`: `::module::Type::field`.
struct Fields<'a> {
    file: &'a Code,
    found: Vec<String>,
}

impl Fields<'_> {
    fn of(file: &Code) -> Vec<String> {
        let mut fields = Fields { file, found: Vec::new() };
        fields.visit_file(&file.syntax());
        fields.found
    }

    fn read(&mut self, name: String, ty: &syn::Type) {
        let meaning = |name: String| {
            let alias = self.file.aliases.iter().find(|(local, _)| *local == name);
            alias.and_then(|(_, path)| path.last().cloned()).unwrap_or(name)
        };
        let names: Vec<String> = names_in(ty.to_token_stream()).into_iter().map(meaning).collect();
        let has = |name: &str| names.iter().any(|it| it == name);
        let grows = COLLECTIONS.split_whitespace().any(has);
        // A borrowed collection belongs to another field.
        let is_borrowed = ty.to_token_stream().to_string().contains('&');
        if grows && !is_borrowed && !has("Bounded") {
            self.found.push(format!("::{}::{name}", self.file.module.join("::")));
        }
    }

    fn read_all(&mut self, owner: &syn::Ident, fields: &syn::Fields) {
        for (number, field) in fields.iter().enumerate() {
            let name = field.ident.as_ref().map_or(number.to_string(), ToString::to_string);
            self.read(format!("{owner}::{name}"), &field.ty);
        }
    }
}

impl Visit<'_> for Fields<'_> {
    fn visit_item_type(&mut self, item: &syn::ItemType) {
        self.read(item.ident.to_string(), &item.ty);
    }

    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.read_all(&item.ident, &item.fields);
    }

    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        item.variants.iter().for_each(|variant| self.read_all(&variant.ident, &variant.fields));
    }
}

/// Whether a constant, or a setting `Type::name`, exists.
fn exists(bound: &str) -> bool {
    let forms = match bound.split_once("::") {
        Some((owner, name)) => [format!("struct {owner} "), format!(" {name}")],
        None => [format!("const {bound}: "), String::new()],
    };
    LIBRARY.iter().any(|file| forms.iter().all(|form| file.text.contains(form)))
}

#[test]
fn a_collection_that_a_peer_can_fill_is_bounded() {
    let is_in = |file: &&Code, rooms: &str| {
        let path = file.path.trim_start_matches("crates/");
        rooms.split_whitespace().any(|room| path.starts_with(room))
    };
    let rooms = LIBRARY.iter().filter(|file| is_in(file, ROOMS) && !is_in(file, OWN_FILES));
    let found: Vec<String> = rooms.flat_map(Fields::of).collect();
    let (bounds, fields): (Vec<_>, Vec<_>) =
        ELSEWHERE.lines().filter_map(|row| row.trim().split_once(": ")).unzip();
    let rows = fields.into_iter().chain([OWN]).flat_map(str::split_whitespace);
    let rows: Vec<String> = rows.map(|row| format!("::{row}")).collect();
    let unbounded = found.iter().filter(|field| !rows.iter().any(|row| field.ends_with(row)));
    let stale = rows.iter().filter(|row| !found.iter().any(|field| field.ends_with(*row)));
    let missing = bounds.into_iter().filter(|bound| !exists(bound));
    let mut broken: Vec<String> = unbounded.cloned().collect();
    broken.extend(stale.map(|row| format!("{row} has a row, and is no such field")));
    broken.extend(missing.map(|bound| format!("{bound} does not exist")));
    assert_none(
        &broken,
        "law 9: a collection that a peer can fill is a `couplet_defer::bounded::Bounded`. If its \
         length is not what is bounded, give it a row in laws/src/tidy/bounded.rs",
    );
}
