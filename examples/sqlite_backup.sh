#!/bin/sh
# A consistent backup of a SQLite database that is being written all the time: nothing stops, nothing is locked.
#
# A snapshot is one moment for all files of the database. What a copy of it holds is what SQLite would find after a power cut in that moment:
# every transaction that was committed, and no half one.
set -e
. "$(dirname "$0")/volume.sh"

mkdir shop
cat >"$PLACE/shop.py" <<'PYTHON'
import sqlite3, sys

database = sqlite3.connect("shop/orders.db", isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT)")
database.execute("CREATE TABLE stock (sold INTEGER)")
database.execute("INSERT INTO stock VALUES (0)")
while True:  # until somebody ends it: an order, and the stock with it, in one transaction
    database.execute("BEGIN")
    database.execute("INSERT INTO orders (item) VALUES (?)", ("something" * 50,))
    database.execute("UPDATE stock SET sold = sold + 1")
    database.execute("COMMIT")
    (sold,) = database.execute("SELECT sold FROM stock").fetchone()
    if sold == 200:
        print("open", flush=True)
PYTHON
cat >"$PLACE/look.py" <<'PYTHON'
import sqlite3, sys

database = sqlite3.connect(sys.argv[1])
(state,) = database.execute("PRAGMA integrity_check").fetchone()
(orders,) = database.execute("SELECT count(*) FROM orders").fetchone()
(sold,) = database.execute("SELECT sold FROM stock").fetchone()
print(f"{state}: {orders} orders, {sold} sold")
sys.exit(not (state == "ok" and orders == sold >= 200))
PYTHON

mkfifo "$PLACE/opened"
python3 "$PLACE/shop.py" >"$PLACE/opened" &
shop=$!
read -r _ <"$PLACE/opened"

echo '# The shop is open. One snapshot of its directory, and a copy of what it shows, at leisure.'
run mkdir shop/.snap/backup
run cp -a shop/.snap/backup "$PLACE/backup"
run rmdir shop/.snap/backup
kill "$shop"

echo '# The copy is whole:'
run python3 "$PLACE/look.py" "$PLACE/backup/orders.db"
