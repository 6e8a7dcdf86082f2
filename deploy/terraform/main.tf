# Bucket, registry, accounts, alerts and billing budget of himari_rl. Values: himari.auto.tfvars.json, written by
# `himari deploy --write` from config/gcp_deployment.yaml; only project and billing account are said by hand:
#   terraform -chdir=deploy/terraform apply -var=project=ID -var=billing_account=ABCDEF-012345-6789AB

terraform {
  required_version = ">= 1.6"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project               = var.project
  region                = var.region
  billing_project       = var.project
  user_project_override = true
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.repository
  location      = var.region
  format        = "DOCKER"

  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }
}
