//! Work that a few threads do together, the calling one among them, which tells how far it is.

use std::sync::mpsc::channel;

/// Runs `work` on so many threads and gives what each has returned, the calling thread first;
/// `None` if one has ended by a panic. What workers say meanwhile is told by the calling thread:
/// between two words of its own, and when it has nothing left to do.
pub(crate) fn work<M: Send, R: Send>(
    threads: usize,
    tell: &mut dyn FnMut(M),
    work: impl Fn(&mut dyn FnMut(M)) -> R + Sync,
) -> Option<Vec<R>> {
    let (say, said) = channel();
    std::thread::scope(|scope| {
        let spawn = |_| {
            let (say, work) = (say.clone(), &work);
            // Nobody stops to listen before all have ended.
            scope.spawn(move || work(&mut |word| drop(say.send(word))))
        };
        let others: Vec<_> = (1..threads).map(spawn).collect();
        drop(say);
        let mut results = vec![work(&mut |word| {
            tell(word);
            said.try_iter().for_each(&mut *tell);
        })];
        said.iter().for_each(&mut *tell);
        let mut whole = true;
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(_) => whole = false,
            }
        }
        whole.then_some(results)
    })
}

#[cfg(test)]
mod tests {
    use super::work;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn every_word_is_told_by_the_calling_thread() {
        for threads in [1, 2, 7] {
            let next = AtomicU64::new(0);
            let here = std::thread::current().id();
            let mut sum = 0;
            let mut tell = |word: u64| {
                assert_eq!(std::thread::current().id(), here);
                sum += word;
            };
            let results = work(threads, &mut tell, |say| {
                let mut count = 0;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 1000 {
                        return count;
                    }
                    count += 1;
                    say(number);
                }
            });
            let results: Vec<u64> = results.expect("nobody panics");
            assert_eq!((results.len(), results.iter().sum()), (threads, 1000));
            assert_eq!(sum, 999 * 1000 / 2);
        }
    }

    #[test]
    fn panic_of_a_worker_is_no_result() {
        let here = std::thread::current().id();
        let ended = work(2, &mut |()| {}, |_| assert_eq!(std::thread::current().id(), here));
        assert!(ended.is_none());
    }
}
