-- A hospital in two tables. Each desk counts its own patients, so that every acknowledged number
-- can be asked for afterwards.
CREATE ROLE registration LOGIN;
SELECT :'password' <> '' AS has_password \gset
\if :has_password
ALTER ROLE registration PASSWORD :'password';
\endif
CREATE DATABASE hospital OWNER registration;
\connect hospital
SET ROLE registration;

CREATE TABLE patients (
    desk        text        NOT NULL CHECK (desk <> ''),
    number      bigint      NOT NULL CHECK (number > 0),
    name        text        NOT NULL,
    born        date        NOT NULL,
    registered  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (desk, number)
);

CREATE TABLE visits (
    visit       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    desk        text        NOT NULL,
    number      bigint      NOT NULL,
    ward        text        NOT NULL,
    reason      text        NOT NULL,
    admitted    timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (desk, number) REFERENCES patients (desk, number)
);
CREATE INDEX visits_of_patient ON visits (desk, number);
