"""Print a schema of many tables: ``python schema.py TABLES | psql``.

Each connection keeps what it knows of every table that it has used, in memory of its own.
"""

import sys

for number in range(int(sys.argv[1])):
    columns = ", ".join(f"c{it} text default 'none'" for it in range(20))
    key = "id int primary key, price numeric check (price > 0)"
    print(f"create table t{number} ({key}, {columns});")
    print(f"insert into t{number} (id, price) select i, i * 1.5 from generate_series(1, 20) i;")
