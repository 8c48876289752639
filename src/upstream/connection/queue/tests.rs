use super::*;

fn queue() -> Queue<u32> {
    Queue::new()
}

/// Queues so many requests as one piece, each its number and a line end.
fn push(queue: &mut Queue<u32>, now_us: u64, numbers: &[u32]) {
    queue.push(now_us, |out, expect| {
        for &number in numbers {
            out.extend_from_slice(format!("{number}\n").as_bytes());
            expect(number);
        }
    });
}

fn fates(queue: &mut Queue<u32>) -> Vec<(Vec<u32>, String, Fate)> {
    let pieces = queue.pieces().into_iter();
    pieces
        .map(|piece| {
            let text = String::from_utf8(piece.bytes).unwrap();
            (piece.waiters, text, piece.fate)
        })
        .collect()
}

#[test]
fn bytes_stay_until_they_are_answered() {
    let mut queue = queue();
    push(&mut queue, 1, &[1]);
    push(&mut queue, 2, &[2]);
    assert_eq!(queue.unsent(), b"1\n2\n");
    queue.wrote(4);
    queue.trim();
    assert_eq!((queue.unsent(), queue.held_bytes()), (&b""[..], 4));
    assert_eq!(queue.pop(), Some((1, 1)));
    assert_eq!(queue.held_bytes(), 2);
    assert_eq!(fates(&mut queue), [(vec![2], "2\n".to_owned(), Fate::Sent)]);
    assert_eq!((queue.held_bytes(), queue.len()), (0, 0));
}

#[test]
fn what_was_not_written_was_not_sent_and_a_piece_is_whole() {
    let mut queue = queue();
    push(&mut queue, 1, &[1]);
    push(&mut queue, 1, &[2, 3]);
    push(&mut queue, 1, &[4]);
    // The first byte of the second piece is gone: the server may get the rest of nothing.
    queue.wrote(3);
    let all = |numbers: &[u32], text: &str, fate| (numbers.to_vec(), text.to_owned(), fate);
    assert_eq!(
        fates(&mut queue),
        [
            all(&[1], "1\n", Fate::Sent),
            all(&[2, 3], "2\n3\n", Fate::Sent),
            all(&[4], "4\n", Fate::Unsent)
        ]
    );
}

#[test]
fn a_piece_is_sent_again_once_and_keeps_its_time() {
    let mut queue = queue();
    push(&mut queue, 7, &[1]);
    push(&mut queue, 8, &[2]);
    queue.wrote(2);
    for piece in queue.pieces() {
        queue.put_back(piece);
    }
    push(&mut queue, 9, &[3]);
    assert_eq!((queue.unsent(), queue.oldest_us()), (&b"1\n2\n3\n"[..], Some(7)));
    queue.wrote(4);
    let found = fates(&mut queue);
    assert_eq!(
        found.iter().map(|found| found.2).collect::<Vec<_>>(),
        [Fate::SentAgain, Fate::Sent, Fate::Unsent]
    );
}

#[test]
fn a_repeat_that_waits_for_a_connection_is_one_still() {
    let mut queue = queue();
    push(&mut queue, 7, &[1]);
    queue.wrote(2);
    // The second time nobody has seen any of it.
    for _ in 0..2 {
        for piece in queue.pieces() {
            queue.put_back(piece);
        }
    }
    queue.wrote(2);
    assert_eq!(fates(&mut queue), [(vec![1], "1\n".to_owned(), Fate::SentAgain)]);
}

#[test]
fn answered_bytes_are_given_up_while_others_wait() {
    let mut queue = queue();
    let big = TRIM_BYTES + 1;
    queue.push(1, |out, expect| {
        out.resize(big, b'x');
        expect(1);
    });
    push(&mut queue, 1, &[2]);
    queue.wrote(big + 2);
    queue.pop();
    queue.trim();
    assert_eq!((queue.out.len(), queue.held_bytes()), (2, 2));
    push(&mut queue, 1, &[3]);
    assert_eq!(queue.unsent(), b"3\n");
    queue.pop();
    queue.wrote(2);
    assert_eq!(fates(&mut queue), [(vec![3], "3\n".to_owned(), Fate::Sent)]);
}

#[test]
fn nobody_is_answered_before_he_has_asked() {
    let mut queue = queue();
    push(&mut queue, 1, &[1]);
    push(&mut queue, 2, &[2]);
    assert_eq!(queue.pop(), None);
    queue.wrote(2);
    assert_eq!(queue.pop(), Some((1, 1)));
    assert_eq!(queue.pop(), None);
    assert_eq!(fates(&mut queue), [(vec![2], "2\n".to_owned(), Fate::Unsent)]);
}

#[test]
fn what_is_refused_before_all_of_it_is_written_is_written_all_the_same() {
    let mut queue = queue();
    let big = 4 * TRIM_BYTES;
    queue.push(1, |out, expect| {
        out.resize(big, b'x');
        expect(1);
    });
    push(&mut queue, 1, &[2]);
    queue.wrote(big - 3);
    assert_eq!(queue.pop(), Some((1, 1)));
    queue.trim();
    assert_eq!(queue.unsent(), b"xxx2\n");
    queue.wrote(5);
    assert_eq!(queue.pop(), Some((1, 2)));
}

#[test]
fn unanswered_bytes_are_bounded() {
    let mut queue = queue();
    queue.push(1, |out, expect| {
        out.resize(FULL_BYTES + 1, b'x');
        expect(1);
    });
    queue.wrote(FULL_BYTES + 1);
    assert!(
        queue.is_full() && !queue.has_room(),
        "they are held until they are answered"
    );
    queue.pop();
    assert!(!queue.is_full() && queue.has_room());
    queue.trim();
    assert!(queue.out.capacity() <= TRIM_BYTES);
}

#[test]
fn each_is_told_once_that_it_is_late() {
    let mut queue = queue();
    for i in 1..=3 {
        push(&mut queue, u64::from(i) * 10, &[i]);
    }
    assert_eq!(late(&mut queue, 10), [0; 0]);
    assert!(!queue.is_overdue());
    assert_eq!(late(&mut queue, 21), [1, 2]);
    assert!(queue.is_overdue());
    assert_eq!(late(&mut queue, 21), [0; 0]);
    queue.wrote(2);
    assert_eq!(queue.pop(), Some((10, 1)));
    assert_eq!(late(&mut queue, 31), [3]);
    assert_eq!(queue.clear().collect::<Vec<_>>(), [2, 3]);
    push(&mut queue, 40, &[4]);
    assert_eq!(late(&mut queue, 41), [4]);
}

fn late(queue: &mut Queue<u32>, before_us: u64) -> Vec<u32> {
    let mut late = Vec::new();
    queue.each_late(before_us, |_, waiter| late.push(*waiter));
    late
}

#[test]
fn a_deadline_that_began_earlier_is_not_that_of_the_queue() {
    let mut queue = queue();
    push(&mut queue, 10, &[1]);
    push(&mut queue, 10, &[2, 3]);
    queue.last_began(3);
    push(&mut queue, 11, &[4]);
    queue.last_began(4);
    assert_eq!(late(&mut queue, 3), [0u32; 0]);
    assert_eq!(late(&mut queue, 4), [2, 3]);
    assert_eq!(late(&mut queue, 4), [0u32; 0]);
    // One that is answered in time is not told.
    queue.wrote(8);
    (1..=4).for_each(|n| assert_eq!(queue.pop().map(|(_, n)| n), Some(n)));
    assert_eq!(late(&mut queue, 100), [0u32; 0]);
    // Nor twice, and it goes with the request to the next connection.
    push(&mut queue, 20, &[5]);
    queue.last_began(15);
    push(&mut queue, 21, &[6]);
    for piece in queue.pieces() {
        queue.put_back(piece);
    }
    assert_eq!(late(&mut queue, 16), [5]);
}

#[test]
fn who_was_told_is_not_told_again_on_the_next_connection() {
    let mut queue = queue();
    push(&mut queue, 1, &[1]);
    push(&mut queue, 2, &[2]);
    push(&mut queue, 9, &[3]);
    assert_eq!(late(&mut queue, 5), [1, 2]);
    // The first is not sent again.
    for piece in queue.pieces().into_iter().skip(1) {
        queue.put_back(piece);
    }
    assert!(queue.is_overdue());
    assert_eq!(late(&mut queue, 5), [0u32; 0]);
    assert_eq!(late(&mut queue, 10), [3]);
}
