//! Prints tokio's random choices in a simulated host, for each seed in the arguments.

use std::cell::RefCell;
use std::future::ready;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use couplet::sim::{Trial, Weather};
use tokio::sync::watch;
use tokio::time::sleep;

/// The winners of repeated races between two ready futures.
async fn coins() -> String {
    let mut text = String::new();
    for _ in 0..40 {
        tokio::select! {
            () = ready(()) => text.push('0'),
            () = ready(()) => text.push('1'),
        }
        tokio::task::yield_now().await;
    }
    text
}

/// The order in which the receivers of a `watch` are woken.
async fn order() -> String {
    let (sender, receiver) = watch::channel(());
    let woken = Arc::new(Mutex::new(String::new()));
    let mut tasks = Vec::new();
    for name in 'a'..='p' {
        let (mut receiver, woken) = (receiver.clone(), woken.clone());
        tasks.push(tokio::spawn(async move {
            let changed = receiver.changed().await;
            changed.expect("the sender is there");
            woken.lock().expect("no panic").push(name);
        }));
    }
    sleep(Duration::from_millis(5)).await;
    sender.send(()).expect("the receivers are there");
    for task in tasks {
        task.await.expect("no panic");
    }
    let woken = woken.lock().expect("no panic");
    woken.clone()
}

fn main() {
    for seed in std::env::args().skip(1) {
        let decided = Rc::new(RefCell::new(String::new()));
        let kept = decided.clone();
        let trial = Trial::new(seed.parse().expect("a number"), Weather::Calm);
        let report = trial.run(&move |sim: &mut couplet::sim::Sim| {
            let kept = kept.clone();
            sim.host_with_tokio("gambler", move |reactor| {
                let kept = kept.clone();
                let play = async move {
                    let ours = coins().await;
                    let theirs = tokio::spawn(coins()).await?;
                    *kept.borrow_mut() = format!("{ours} {theirs} {}", order().await);
                    Ok(())
                };
                reactor.spawn(play).detach();
                Ok(())
            });
            sim.run_for(Duration::from_secs(1))
        });
        assert_eq!(report.failure, None);
        println!("{}", decided.borrow());
    }
}
