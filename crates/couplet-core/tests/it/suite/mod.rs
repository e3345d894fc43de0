//! The conformance suite: each test states a fact of `docs/contract.md` and runs on every driver.
//!
//! A test is `fn c05_…(kit: Kit)` in the file of its section, with a line in `all_facts!` that
//! names its needs; a script of `scripted!` names them itself. One line of `rig!` adds a rig.

/// Facts as scripts, each with its needs, for [`all_facts!`]: `scripted! { $ file: fn fact() needs … "…"; }`.
macro_rules! scripted {
    ($d:tt $file:ident: $($(#[$doc:meta])* fn $fact:ident() $(needs $($need:ident)+)? $($script:literal),+;)*) => {
        super::plays::scripts! { $($(#[$doc])* fn $fact() $($script),+;)* }

        macro_rules! scripts_of_file {
            ($d kind:ident, $d kit:expr) => {
                facts! { $d kind, $d kit; $file: [$($fact $(needs $($need)+)?),*] }
            };
        }
        pub(crate) use scripts_of_file;
    };
}

mod aborting;
mod aftermath;
mod again;
mod answers;
mod building;
mod closing;
mod connecting;
mod datagrams;
mod deadlines;
mod draining;
pub(crate) mod dropping;
#[cfg(unix)]
mod files;
mod finishing;
mod flushing;
mod load;
mod ports;
mod precedence;
mod producers;
mod reading;
mod ready_made;
mod reasons;
mod requests;
mod upgrading;

#[cfg(unix)]
pub(crate) use couplet_testkit_loops::suite::outer;
pub(crate) use couplet_testkit_loops::suite::{endings, kit, peer, plays, recorder, tap};

/// Defines a need: a macro that omits a fact for the kinds of connections that lack it.
macro_rules! need {
    ($d:tt $need:ident: $($lacks:ident)*) => {
        macro_rules! $need {
            $(($lacks $d($d rest:tt)*) => {};)*
            ($d kind:ident $d($d rest:tt)*) => { seen! { $d kind $d($d rest)* } };
        }
    };
}

// Resets at will. A system resets a UNIX socket only if it is closed with unread input.
need!($ resets: unix unix_sockets pipes terminals);

// A close that waits for the peer's.
need!($ awaited_end: pipes terminals);
// Halves that can end together, and a reset.
need!($ joint_halves: pipes terminals);
// A port that accepts the connections.
need!($ port: pipes terminals);
// An address, a socket and its options.
need!($ socket: pipes terminals);
// Buffers that hold more than the high mark.
need!($ capacity: pipes terminals);
// A peer that can break the connection.
need!($ breaking: pipes terminals);

// Halves that close separately: the peer sees the end of one, and reads after its own end.
need!($ half_close: terminals);
// Bytes that can still be read after the peer has hung up.
need!($ late_reads: terminals);
// Buffers, and reads, of more than a few KiB.
need!($ room: terminals);

// Countable calls of the driver: in TLS, the handshake and the close_notify are calls too.
need!($ counted_calls: tls tls_sockets);
// A peer that does nothing: in TLS, it takes part in the handshake.
need!($ passive_peer: tls tls_sockets);
// A wire that carries only the written bytes.
need!($ exact_wire: tls tls_sockets);
// Bytes that can arrive in part: in TLS, a truncated record delivers nothing, and a whole one is
// longer than a read.
need!($ streamed: tls tls_sockets);
// System buffers that fill in one step. Layers fill them piece by piece, and a piece that the
// system accepts after the test's clock has moved counts as progress.
need!($ full_at_once: tls_sockets);

// Slices as long as the read.
need!($ slices: bytes tls tls_sockets);

// Datagrams with numbers for addresses.
need!($ ip: unix unix_sockets);
// Refusals of datagrams, or of their port.
need!($ refusals: unix);

/// An item that needs the rest of the list, for one kind of connections.
macro_rules! seen {
    ($kind:ident [] { $($item:tt)* }) => { $($item)* };
    ($kind:ident [$need:ident $($more:ident)*] $item:tt) => { $need! { $kind [$($more)*] $item } };
}

/// Generates a test on one driver for each fact that it can show.
macro_rules! facts {
    ($kind:ident, $kit:expr; scripts of $($file:ident)*) => {
        $(super::$file::scripts_of_file! { $kind, $kit })*
    };
    ($kind:ident, $kit:expr; $($file:ident: [$($fact:ident $(needs $($need:ident)+)?),* $(,)?])*) => {
        $($(
            seen! { $kind [$($($need)+)?] {
                #[test]
                fn $fact() {
                    super::$file::$fact($kit);
                }
            } }
        )*)*
    };
}

/// All facts of the suite, by file.
macro_rules! all_facts {
    ($kind:ident, $kit:expr) => {
        facts! { $kind, $kit;
            scripts of aborting aftermath again building closing connecting deadlines draining
            finishing flushing ports precedence producers reading ready_made reasons upgrading
        }
        facts! { $kind, $kit;
            closing: [
                c01_connection_lost_comes_exactly_once needs resets,
                c02_lose_connection_returns_before_connection_lost,
                c04_a_connection_closed_by_another_in_the_same_turn_gets_nothing,
                c08_calls_inside_and_after_connection_lost_do_nothing needs resets,
            ]
            flushing: [
                c06_c07_writes_after_lose_connection_are_dropped,
                c06_c07_writes_after_lose_write_connection_are_dropped needs half_close,
            ]
            deadlines: [
                c15_a_close_without_progress_ends_after_30_s needs resets,
                c15_progress_postpones_the_close_deadline needs room full_at_once,
                c15_the_close_deadline_can_be_set_and_switched_off needs full_at_once,
                c15a_after_lose_connection_only_the_close_deadline_counts needs full_at_once,
                c15a_messages_do_not_move_the_timer,
                c15c_input_that_has_arrived_precedes_late_timers needs resets,
                c15d_a_connection_whose_peer_has_ended_is_reset_when_nothing_moves needs half_close,
                c15e_an_open_connection_whose_peer_takes_nothing_is_reset needs full_at_once,
            ]
            aborting: [
                c17_abort_connection_returns_before_connection_lost,
                c20_a_connection_aborted_by_another_in_the_same_turn_gets_nothing,
            ]
            aftermath: [
                c20a_after_a_panic_only_connection_lost_comes needs slices,
                c20a_from_connection_lost_on_tell_ask_and_call_later_are_refused,
                c20a_calls_queued_for_a_lost_connection_never_reach_its_successor,
            ]
            ports: [
                c21_stop_listening_fires_in_a_later_turn,
                c21_a_port_whose_handle_is_dropped_keeps_listening,
                c22_a_stopped_port_can_listen_again,
                c22b_a_port_has_a_descriptor_while_it_listens_where_there_are_sockets,
                a_port_on_all_addresses_accepts_ipv4_unless_it_is_for_ipv6_only needs ip,
                c21_a_port_can_be_stopped_by_its_own_connection,
                c51a_a_driver_without_sockets_refuses_an_adoption,
                c64a_with_socket_runs_before_more_bytes_where_there_is_a_socket needs socket,
                c64d_options_of_a_port_are_set_and_read_and_inherited_until_it_stops needs socket,
            ]
            load: [
                c22e_a_full_loop_accepts_nothing_on_any_port needs port passive_peer,
                c22e_a_loop_takes_other_limits_while_it_runs needs port passive_peer,
                c22e_outgoing_connections_count needs port passive_peer,
                c71b_the_connection_with_most_output_is_ended,
                c71b_each_peer_with_an_address_has_a_separate_limit needs ip port,
                c71c_a_port_has_a_separate_limit needs port,
                c71b_producers_of_large_buffers_wait_first,
                c71b_output_that_the_driver_takes_at_once_is_not_limited,
                c71b_output_that_waits_already_counts_for_a_new_limit,
                c71b_output_that_has_left_counts_when_it_waits_again,
                c71b_as_many_connections_are_ended_as_it_takes,
                c71b_output_that_waits_counts_although_a_port_has_its_own_limit,
                c71c_each_port_accepts_again_whenever_its_output_has_left needs port passive_peer,
            ]
            reasons: [
                c26_c27_an_abort_is_aborted_here_and_lost_there needs resets,
                c28_only_done_is_clean,
                c29_a_panic_in_data_received_is_logged_and_is_the_reason,
                c31_a_connection_open_at_the_end_gets_shutdown,
                c31_a_flush_at_the_end_lasts_no_longer_than_the_grace,
            ]
            connecting: [
                c36_nothing_is_called_inside_connect needs passive_peer,
                c37_a_client_ends_in_order needs resets,
                c38_a_retry_after_failure_keeps_the_factory_started needs passive_peer,
                c32_a_refused_connect_has_the_systems_number_where_there_is_one,
                c40_a_refused_connect_is_reported_by_a_turn,
                c49_an_unanswered_connect_ends_after_30_s,
            ]
            building: [
                c41_a_shared_factory_starts_once_and_stops_once,
                c43_connect_fails_with_no_protocol needs passive_peer,
                c44_a_panic_in_any_callback_loses_that_connection needs half_close,
                c44_fail_in_any_callback_loses_that_connection needs half_close,
                c44_a_panic_in_build_protocol_drops_that_connection needs passive_peer,
                c44_a_failing_connection_does_not_end_the_turn,
                c45_a_panic_in_connection_lost_is_logged_and_the_rest_follows needs resets,
                c46_host_and_peer_stay_readable needs socket,
                c50_nothing_keeps_a_protocol_after_its_connection,
            ]
            dropping: [
                c44_a_panic_in_the_drop_of_a_protocol_affects_nothing_else needs breaking,
                c44_a_factory_gets_client_connection_lost_though_the_drop_of_its_protocol_panics needs passive_peer,
                c44_a_panic_in_the_drop_of_a_protocol_does_not_stop_the_drop_of_its_loop,
                c50_an_object_may_use_every_handle_while_it_is_dropped needs resets,
            ]
            finishing: [
                c105a_a_drain_closes_its_port_and_asks_only_its_connections needs port,
                c105e_bytes_that_the_system_holds_come_before_the_question needs port,
                c105a_ports_that_have_not_started_are_closed_and_no_connection_is_an_end,
                c105a_a_port_may_accept_while_all_others_drain needs port,
                c105a_a_drain_of_all_closes_every_port,
                c105b_a_port_that_listens_again_drains_again needs port,
                c105a_a_protocol_that_does_not_know_of_drains_is_left_alone,
                c105b_a_connection_closed_by_one_drain_counts_as_closed_for_another,
                c105b_a_drain_that_was_cancelled_before_it_began_leaves_nothing,
            ]
            upgrading: [
                c50a_the_old_protocol_is_dropped_and_may_panic_in_that,
                c50a_requests_to_the_old_protocol_are_dropped,
                c50a_the_bytes_that_a_framer_holds_are_unread,
                c50a_a_policy_outlasts_an_upgrade,
            ]
            reading: [
                c52_pauses_and_resumes_lose_no_bytes needs slices,
                c55b_the_loss_is_reported_with_its_reason_after_the_protocol,
                c56_pending_input_is_delivered_before_the_end needs late_reads slices,
                c57_one_read_is_at_most_the_loops_buffer needs slices,
                c57_a_busy_connection_gets_one_read_a_turn needs room slices,
                c64b_options_are_read_back_where_there_is_a_socket needs socket,
                c64b_a_connection_was_made_at_the_time_of_that_turn,
            ]
            answers: [
                c57a_answers_leave_at_once_where_that_is_asked_for,
                c57a_answers_leave_together_32_at_most,
                c57a_answers_that_are_made_in_no_time_leave_at_once,
            ]
            ready_made: [
                c71a_a_relay_passes_bytes_and_each_end_of_stream_on,
                c71a_a_relay_passes_a_reset_on needs resets,
                c71a_a_close_by_a_drain_ends_the_other_side_too,
                c71a_a_relay_holds_no_more_than_the_mark_and_one_read,
                c71a_a_protocol_may_be_upgraded_to_a_relay needs slices,
                c169a_a_custom_framer_finds_the_same_messages_however_they_are_cut,
                c169a_a_custom_framer_stops_at_a_pause_and_refuses_long_messages,
                c169b_messages_past_the_rate_wait_and_none_is_lost,
            ]
            again: [
                c71c_of_two_limits_for_each_peer_the_smaller_one_counts needs ip port,
                c157_the_longest_datagram_is_the_destinations needs ip,
                c160c_each_of_several_options_has_its_outcome needs ip,
            ]
            datagrams: [
                c155_each_datagram_is_one_call_even_an_empty_one,
                c155_a_panic_in_a_callback_is_logged_and_the_port_stays_open,
                c156_a_round_takes_at_most_64_datagrams_of_a_port,
                c156_the_size_can_be_set_and_a_cut_datagram_is_reported,
                c157_an_answer_leaves_right_after_the_callback,
                c157_a_datagram_fits_up_to_the_last_byte_of_the_queue_or_is_dropped_and_counted,
                c157_a_datagram_that_is_too_long_or_for_a_wrong_address_is_an_error,
                c158_a_port_starts_and_stops_in_order,
                c158_a_port_that_stops_sends_what_waits_and_delivers_nothing,
                c158_a_port_that_stops_or_pauses_in_a_batch_holds_only_its_own_datagrams,
                two_ports_share_an_address_only_if_both_allow_it needs ip,
                c158_a_stopped_reactor_closes_its_ports,
                c159_a_refusal_is_connection_refused_and_the_port_stays_open needs refusals,
                c159_a_refusal_during_a_pause_is_reported_however_many_are_sent_then needs ip,
                c159_datagrams_behind_a_refusal_are_delivered needs ip,
                c159_refusals_drop_nothing_unless_two_concern_the_same_datagram,
                c159_a_port_receives_only_from_its_peer,
                c160_the_senders_full_address_is_reported needs ip,
                c160a_a_pause_holds_at_once_and_loses_nothing,
                c160b_calls_into_a_protocol_run_in_the_turn_and_end_with_the_port,
                c160c_members_of_a_group_get_its_datagrams_until_they_leave needs ip,
                c160d_an_answer_comes_from_the_address_that_was_asked needs ip,
                c160e_a_snapshot_counts_datagrams,
            ]
            requests: [
                c02a_each_request_takes_effect_in_each_callback_of_its_protocol needs joint_halves,
                c02a_c08_each_request_in_connection_lost_does_nothing needs joint_halves,
                c160f_each_request_of_a_port_takes_effect_in_each_of_its_callbacks,
                c160f_each_request_of_a_port_takes_effect_in_connection_refused needs ip,
                c160f_requests_in_stop_protocol_do_nothing_and_leave_nothing,
                c160d_the_answer_to_a_multicast_comes_from_the_address_of_a_socket needs ip,
            ]
            producers: [
                c65_a_push_producer_is_paused_above_64_kib_and_resumed_at_16_kib needs exact_wire,
                c65_the_marks_can_be_set needs exact_wire,
                c65_a_relay_holds_no_more_than_one_read_past_the_mark needs room streamed,
                c68_a_producer_registered_after_the_end_is_stopped_by_the_turn needs resets,
                c70_a_producer_may_write_and_unregister_while_it_is_resumed,
                c71_writable_fires_at_the_low_mark needs exact_wire,
                c71_flushed_fires_when_everything_is_sent,
                c71_past_the_hard_cap_the_connection_overflows needs resets,
            ]
            files: [
                c74a_ranges_of_files_leave_between_the_bytes_around_them needs room,
                c74a_a_file_leaves_before_a_close_and_waits_for_its_peer needs half_close capacity,
                c74b_a_file_that_changes_while_it_is_sent_resets_the_connection needs resets capacity,
                c74b_a_range_that_the_file_lacks_resets_the_connection needs resets,
                c74d_a_file_that_only_grows_or_moves_is_sent_to_its_announced_length needs capacity,
                c74c_a_file_past_the_hard_cap_overflows needs resets,
                c74c_a_file_takes_no_memory_and_does_not_count_for_the_load needs capacity,
            ]
        }
    };
}

/// Runs the suite on a rig: a driver, and one kind of connections.
macro_rules! rig {
    ($rig:ident, $kind:ident, $kit:expr) => {
        mod $rig {
            use crate::suite::kit::*;

            all_facts!($kind, $kit);
        }
    };
}

// Each rig has a property that no other has, and so can show a bug that the others hide. A
// property that only the loop sees has one rig, not one for each driver.

// The drivers: real sockets, exact edges and batches, operations in flight, the simulator.
rig!(mio, tcp, Kit::mio());
#[cfg(all(target_os = "linux", feature = "uring"))]
rig!(uring, tcp, Kit::uring().in_ring());
rig!(memory_readiness, tcp, READINESS);
rig!(memory_completion, tcp, COMPLETION);
rig!(sim, tcp, Kit::sim());

// Answers that leave together: held bytes that nothing sends. Only here each batch is known.
rig!(memory_readiness_together, tcp, READINESS.options(together));

// Layers that change nothing, over a system's buffers and under operations in flight.
rig!(mio_layered, tcp, Kit::mio().over(Under::PassThrough));
#[cfg(all(target_os = "linux", feature = "uring"))]
rig!(uring_layered, tcp, Kit::uring().over(Under::PassThrough));
rig!(memory_completion_layered, tcp, COMPLETION.over(Under::PassThrough));
// A layer that keeps input back between turns, without an event of the driver to announce it.
rig!(memory_readiness_in_bytes, bytes, READINESS.over(Under::SingleBytes));

// TLS, with B's TLS at the other end: the first under the stall detector, which wraps the user's
// objects, the second with answers that a layer has taken and that are still held.
#[cfg(any(feature = "tls", feature = "ring"))]
rig!(mio_tls, tls_sockets, Kit::mio().over(Under::Tls).options(watched));
#[cfg(any(feature = "tls", feature = "ring"))]
rig!(memory_readiness_tls, tls, READINESS.over(Under::Tls).options(together));

// UNIX sockets, as each of the three networks has them.
#[cfg(unix)]
rig!(mio_unix, unix_sockets, Kit::mio().unix());
rig!(memory_readiness_unix, unix, READINESS.unix());
rig!(sim_unix, unix, Kit::sim().unix());

// Pairs of pipes, and terminals in raw mode.
#[cfg(unix)]
rig!(mio_pipes, pipes, Kit::mio().pipes());
#[cfg(unix)]
rig!(mio_terminals, terminals, Kit::mio().terminal());

// Inside an outer loop, which turns it only on request: work that the driver does not announce. A
// connect to a UNIX socket is retried by the clock, a TCP connection can be reset.
#[cfg(unix)]
rig!(mio_embedded, tcp, Kit::mio().embedded());
#[cfg(unix)]
#[cfg(all(target_os = "linux", feature = "uring"))]
rig!(uring_embedded, tcp, Kit::uring().in_ring().embedded());
rig!(mio_unix_embedded, unix_sockets, Kit::mio().unix().embedded());
