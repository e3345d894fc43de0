create table goods (name text primary key, cents bigint not null, stock bigint not null);
create table orders (number bigserial primary key, good text not null references goods);
insert into goods values ('lamp', 1250, 2), ('poem', 100, 1000);
