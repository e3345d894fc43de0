//! The exact output of each small program.

use super::{Running, example, prints, run, stderr, stdout};

#[test]
fn the_reactor_programs_print_their_lessons() {
    prints(
        "reactors",
        &["another_driver"],
        "\
one turn now
one turn tomorrow
a day has passed
",
    );
    prints(
        "reactors",
        &["hello"],
        "\
the loop is about to start
hello from inside the loop
the loop has ended
",
    );
    prints(
        "reactors",
        &["countdown", "1"],
        "\
start
5 …
4 …
3 …
2 …
1 …
stop
",
    );
    prints(
        "reactors",
        &["exception"],
        "\
and the next one walks on
",
    );
    prints(
        "reactors",
        &["log"],
        "\
INFO a subscriber is installed
ERROR a failure that we log (failure: no ink)
ERROR a callback panicked (what: \"timed call\") (text: the pen broke)
INFO the end
",
    );
}

#[test]
fn the_deferred_programs_print_their_lessons() {
    prints(
        "deferreds",
        &["callback"],
        "\
your poem, well done: a line is enough
no poem today: the poet sleeps
both have fired
",
    );
    prints(
        "deferreds",
        &["failure"],
        "\
the poem was turned down: line 2 does not rhyme
a bad rhyme? false
turned down for line 2
it began in failure.rs
line 9 does not rhyme
a bad rhyme? true
it began in failure.rs
",
    );
    prints(
        "deferreds",
        &["once"],
        "\
a value: here I am
the second comes too late
a value: here I am
the second comes too late
a failure: I can't
the second comes too late
a failure: I can't
the second comes too late
",
    );
    prints(
        "deferreds",
        &["both"],
        "\
snow on the roof,
the cat on the stove
closing the book
sorry: the page is torn out
closing the book
",
    );
    prints(
        "deferreds",
        &["blocking"],
        "\
in the loop:
  the callback begins
  the callback has its sum, 5000050000
  the timed call
in a thread:
  the loop turns while the thread waits
  the thread received a word
",
    );
    prints(
        "deferreds",
        &["unhandled"],
        "\
that was reported on stderr
reported to us: I can't read this
and a cancellation is never reported
",
    );
    prints(
        "deferreds",
        &["returning"],
        "\
three callbacks that return values immediately:
  one got 0
  two got 1
  three got 2
  and the call returns
the second one returns a Deferred:
  one got 0
  two got 1, and takes its time
  and the call returns
  three got 2
",
    );
    prints(
        "deferreds",
        &["fired_before"],
        "\
fired without a callback
adding the first
one got 0
adding the second
two got 1
created with its value
and read at once
created first, fired before it is returned
the outer one got early
",
    );
    prints(
        "deferreds",
        &["simulator", "fail", "callback=ok", "errback=ok", "both=fail", "errback=ok"],
        "\
errback 2 got the failure of the beginning
both 3 got the value of errback 2
errback 4 got the failure of both 3
the chain ends with the value of errback 4
",
    );
}

#[test]
fn the_twelve_cancelling_cases_end_as_they_say() {
    prints(
        "cancelling",
        &["plain"],
        "\
1: only a callback; it is not called, and nothing is reported
2: an errback gets the cancellation
  the errback got: cancelled
3: fired first, so there is nothing to cancel
  the callback got: the result
4: cancelled first, so the result is late
  the errback got: cancelled
  the resolver knows: true
",
    );
    prints(
        "cancelling",
        &["cancellers"],
        "\
5: a canceller that fires nothing
  the canceller stops the work
  the errback got: cancelled
6: one that has another result
  the canceller stops the work
  the callback got: half of the result
7: one that fails in its own way
  the canceller stops the work
  the errback got: interrupted at line 7
8: fired first, so the canceller is not called
  the callback got: the result
",
    );
    prints(
        "cancelling",
        &["delayed"],
        "\
9: nobody cancels
  sending the poem
  got a poem: rain, and no umbrella
10: cancelled, and the poem is sent anyway
  no poem: cancelled
  sending the poem
11: cancelled, and not sent
  the call was cancelled: true
  no poem: cancelled
",
    );
    prints(
        "cancelling",
        &["nested"],
        "\
12: the outer one has fired, the inner one has not
the first callback got a result, and returns the inner one
cancelling the outer chain
the canceller of the inner one
the errback got: cancelled
done
",
    );
}

#[test]
fn the_seven_list_cases_print_their_results() {
    prints(
        "lists",
        &["values"],
        "\
1: no members; it fires immediately
  the list fires with []
  the callback is added
2: one member
  the callback is added
  firing a
  the list fires with [\"a\"]
3: two, fired in their order
  the callback is added
  firing a
  firing b
  the list fires with [\"a\", \"b\"]
4: two, fired the other way round
  the callback is added
  firing b
  firing a
  the list fires with [\"a\", \"b\"]
",
    );
    prints(
        "lists",
        &["failures"],
        "\
5: the results are taken, including the failure
  firing one with a value, the other with a failure
  a value: a
  a failure: b failed
6: nobody takes the results, so the failure is reported
  firing one with a value, the other with a failure
  reported: b failed
7: an errback before the list; the list sees its result
  firing one with a value, the other with a failure
  the errback got: b failed
  a value: a
  a value: b after all
",
    );
}

#[test]
fn the_coroutine_cases_resume_where_they_stopped() {
    prints(
        "coroutines",
        &["steps"],
        "\
1: with a for
  getting up
got 1
  at work
got 2
  done
2: step by step
made, and nothing has run
  getting up
got 1
  at work
got 2
  done
",
    );
    prints(
        "coroutines",
        &["turns"],
        "\
ones 1
tens 10
ones 2
tens 20
ones has ended
tens 30
tens 40
tens has ended
",
    );
    prints(
        "coroutines",
        &["sent"],
        "\
ready
received 10
received 20
handled: out of order
ended with Err(the plug was pulled)
",
    );
    prints(
        "coroutines",
        &["awaiting"],
        "\
spawned, and nothing has run
the first step
the second got 1
the third got 2
the fourth got a failure: no three
",
    );
    prints(
        "coroutines",
        &["two"],
        "\
good: the first step
bad: the first step
good: the second step
bad: the second step
good: the last step
a result: 1
bad: the last step
a failure: oh no
both are done
",
    );
}

#[test]
fn a_reactor_with_nothing_to_do_waits_until_ctrl_c() {
    let mut program = Running::start("reactors", &["simple"]);
    assert_eq!(program.line(), "waiting for nothing; Ctrl-C ends me");
    program.interrupt();
    assert_eq!(program.rest(), "ended as asked\n");
}

#[test]
fn callbacks_and_tasks_are_called_by_a_turn() {
    for (theme, function) in [("reactors", "stack::show"), ("coroutines", "stack::resumed")] {
        let output = run(example(theme).arg("stack"));
        let stack = stdout(&output);
        let at = |name: &str| stack.find(name).unwrap_or_else(|| panic!("{name} in {stack}"));
        assert!(at(function) < at("turn\n"), "{stack}");
        assert!(at("turn\n") < at(&format!("{theme}::main")), "{stack}");
    }
}

#[test]
fn a_callbacks_panic_is_printed_to_stderr() {
    assert!(stderr(&run(example("reactors").arg("exception"))).contains("I stumble"));
}

#[test]
fn an_unhandled_failure_is_printed_to_stderr_with_both_places() {
    let errors = stderr(&run(example("deferreds").arg("unhandled")));
    assert!(errors.starts_with("unhandled failure: I can't read this (began at "), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert_eq!(errors.matches("unhandled.rs:").count(), 2, "{errors}");
}

#[test]
fn an_unknown_program_is_answered_with_the_list() {
    for theme in ["reactors", "deferreds", "cancelling", "lists", "coroutines"] {
        for word in ["nonsense", ""] {
            let output = run(example(theme).arg(word));
            assert!(!output.status.success(), "{theme} {word}");
            assert!(stderr(&output).starts_with("Error: which one? "), "{}", stderr(&output));
        }
    }
    for (words, expected) in [
        (&["simulator"][..], "Error: how does it begin? `ok` or `fail`, then the links\n"),
        (&["simulator", "well"], "Error: \"well\": expected `ok` or `fail`\n"),
        (
            &["simulator", "ok", "callback"],
            "Error: \"callback\": expected callback=…, errback=… or both=…\n",
        ),
    ] {
        assert_eq!(stderr(&run(example("deferreds").args(words))), expected);
    }
    assert!(
        stderr(&run(example("reactors").args(["countdown", "soon"]))).contains("invalid digit")
    );
}
